"""Stages from installed packages: entry points of the group ``vllm_ci.stages``, each an object or a function."""

from __future__ import annotations

import difflib
from functools import cache
from importlib import metadata

from vllm_ci.domain.errors import ConfigError
from vllm_ci.domain.stage import refusal_of_name
from vllm_ci.stages.stage import Stage
from vllm_ci.stages.user_code import words

GROUP = "vllm_ci.stages"


@cache
def _entry_points() -> dict[str, metadata.EntryPoint]:
    return {entry.name: entry for entry in metadata.entry_points(group=GROUP)}


def names() -> tuple[str, ...]:
    """Names of all installed stages."""
    return tuple(sorted(_entry_points()))


def load(name: str) -> Stage:
    """The installed stage of this name.

    Raises:
        ConfigError: No package provides it, or it cannot be used.
    """
    entry = _entry_points().get(name)
    if entry is None:
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.5)
        known = f"did you mean {near[0]}? " if near else f"installed stages: {', '.join(names())}. " if names() else ""
        raise ConfigError(
            f"no installed package provides the stage {name}",
            why=f"no package has an entry point {name} in the group {GROUP}",
            remedy=f"{known}Install the package next to vllm-ci, or remove the stage",
        )
    if reason := refusal_of_name(name):
        raise ConfigError(
            f"the entry point {name} of {_package(entry)} cannot be a stage", why=reason, remedy="update or remove that package"
        )
    try:
        found = entry.load()
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"the stage {name} from {_package(entry)} cannot be loaded",
            why=words(error),
            remedy="update or remove that package",
        ) from error
    return checked(found, where=f"the entry point {name} of {_package(entry)}")


def checked(found: object, *, where: str) -> Stage:
    """Check that an object is a stage, and return it.

    Args:
        found: Any object.
        where: Description of the object, for messages.

    Raises:
        ConfigError: It is not a stage, or its name is invalid or reserved.
    """
    name = getattr(found, "name", None)
    usable = isinstance(name, str) and hasattr(found, "needs_server")
    if not usable or not callable(getattr(found, "programs", None)) or not callable(getattr(found, "result", None)):
        raise ConfigError(
            f"{where} is not a stage",
            why=f"it is a {type(found).__name__}; a stage has name, needs_server, programs() and result()",
            remedy="decorate an async function with @vllm_ci.stage, or write a class with these members (docs/api.md)",
        )
    if reason := refusal_of_name(str(name)):
        raise ConfigError(f"{where} cannot be called {name}", why=reason, remedy="give the stage another name")
    stage: Stage = found  # type: ignore[assignment]  # checked member by member above
    return stage


def _package(entry: metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value
