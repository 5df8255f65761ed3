"""Options that several commands share, and how they override the configuration file.

Precedence: flag, environment variable, file, default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from vllm_ci.config.load import Loaded

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Number(click.FloatRange):
    """A finite number within a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; ``nan`` and ``inf``, which any comparison lets pass, are refused."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


def refuse_unused(context: click.Context, unused: Mapping[str, str]) -> None:
    """Refuse options of the command line that would have no effect. Those of the environment are defaults for many commands.

    Args:
        context: The call.
        unused: Why an option has no effect, by the name of its parameter.

    Raises:
        UsageError: One of them was given.
    """
    from vllm_ci.domain.errors import UsageError

    flags = {param.name: param.opts[0] for param in context.command.params}
    for name, why in unused.items():
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UsageError(f"{flags[name]} has no effect here", why=why, remedy=f"leave out {flags[name]}")


def option(name: str, **settings: Any) -> Callable[[_Command], _Command]:
    """The option ``--name``, also set by ``VLLM_CI_NAME``."""
    variable = "VLLM_CI_" + name.removeprefix("--").partition("/")[0].replace("-", "_").upper()
    return click.option(name, envvar=variable, show_envvar=True, **settings)


def config_option(command: _Command) -> _Command:
    """The option ``--config``."""
    return option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Configuration file; by default vllm-ci.yaml in this folder or a parent folder.",
    )(command)


_MODEL = (
    "tiny, a name of models.named in the configuration, a folder with a checkpoint, NAME@ALIAS of `vllm-ci model`, or ORG/NAME "
    "on the model hub."
)


def project_options(command: _Command) -> _Command:
    """Options of every command that builds or serves a project."""
    for each in (
        option("--gpus", help="none, all, or device numbers separated by commas."),
        option("--port", type=click.IntRange(0, 65535), help="Port of the server; 0 for any free port."),
        option("--model", help=_MODEL),
        option("--engine", type=click.Choice(["auto", "host", "dagger"]), help="Where programs and services run."),
        config_option,
    ):
        command = each(command)
    return command


def loaded(context: click.Context) -> Loaded:
    """The configuration, overridden by the command line and the environment."""
    from vllm_ci.config import load
    from vllm_ci.config.load import Override

    path = context.params.get("config")
    overrides: dict[str, Override] = {}
    for name, keys in _KEYS.items():
        source = context.get_parameter_source(name)
        if source not in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT) or context.params.get(name) is None:
            continue
        flag = "--" + name.replace("_", "-")
        origin = f"flag {flag}" if source is ParameterSource.COMMANDLINE else f"environment VLLM_CI_{name.upper()}"
        overrides |= {key: Override(value=value, origin=origin) for key, value in keys(context.params[name]).items()}
    return load.load(path or load.find(Path.cwd()), overrides)


def project_if_any(context: click.Context) -> Loaded | None:
    """The configuration, if the command runs in a project or names one; for commands that do more there."""
    from vllm_ci.config import load

    here = Path.cwd()
    named = context.params.get("config") is not None
    return loaded(context) if named or any((each / load.FILE_NAME).is_file() for each in (here, *here.parents)) else None


def budget(context: click.Context) -> float | None:
    """Time budget of each stage in seconds, if set by the command line or the environment; 0 for no limit."""
    return 0.0 if context.params.get("deep") else context.params.get("budget")


def _model(value: str) -> dict[str, Any]:
    """A plain word is a model that the configuration names; names on the hub are ORG/NAME."""
    none: dict[str, Any] = {"model.tiny": None, **dict.fromkeys(_SOURCES, "")}
    if value == "tiny":
        return dict.fromkeys(_SOURCES, "")
    if Path(value).is_dir():
        return {**none, "model.path": str(Path(value).absolute())}
    if "/" in value:
        return {**none, "model.name": value}
    return {**none, "model.ref" if "@" in value else "model.use": value}


def _key(value: str) -> dict[str, Any]:
    """On the command line, a path is relative to the current directory, not to the file's folder."""
    return {"release.key": str(Path(value).absolute()) if Path(value).is_file() else value}


def _budget(seconds: float) -> dict[str, Any]:
    from vllm_ci.config.stages import BUDGETED

    return {f"stages.{name}.budget_s": seconds for name in BUDGETED}


_SOURCES = ("model.path", "model.name", "model.ref", "model.wheel", "model.use")
# Option -> function that returns the settings it overrides, by dotted key.
_KEYS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "engine": lambda value: {"engine": value},
    "port": lambda value: {"server.port": value},
    "gpus": lambda value: {"server.gpus": value},
    "report_dir": lambda value: {"report.directory": str(Path(value).absolute())},
    "model": _model,
    "key": _key,
    "prometheus": lambda value: {"monitoring.prometheus": value},
    "hours": lambda value: {"monitoring.watch.hours": value},
    "budget": _budget,
    "deep": lambda value: _budget(0.0) if value else {},  # after budget, so that it overrides it
}
