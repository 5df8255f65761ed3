"""For how long Dagger may answer from memory: seven days, unless a function says otherwise, and all of ours do."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import dagger

_Function = TypeVar("_Function", bound=Callable[..., Any])

# The SDK's own types do not list this argument.
_function: Any = dagger.function


def never_cached(function: _Function) -> _Function:
    """A function of the module that reads what may change behind Dagger's back: a registry, a clock, a live server."""
    return cast("_Function", _function(cache="never")(function))


def cached_for_the_session(function: _Function) -> _Function:
    """A function of the module that is called once a session, so that several parts of its result come from one call."""
    return cast("_Function", _function(cache="session")(function))
