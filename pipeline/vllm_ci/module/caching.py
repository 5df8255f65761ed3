"""How long Dagger caches results of functions: seven days by default; all functions of this module override that."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import dagger

_Function = TypeVar("_Function", bound=Callable[..., Any])

# The types of the SDK lack this argument.
_function: Any = dagger.function


def never_cached(function: _Function) -> _Function:
    """A function that reads state outside Dagger: a registry, a clock, a running server."""
    return cast("_Function", _function(cache="never")(function))


def cached_for_the_session(function: _Function) -> _Function:
    """A function that is called once per session, so that several parts of its result come from one call."""
    return cast("_Function", _function(cache="session")(function))
