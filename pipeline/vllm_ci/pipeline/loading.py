"""Import a user's ``ci/pipeline.py``; error messages name the line."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from types import ModuleType

from vllm_ci.domain.errors import ConfigError, VllmCiError
from vllm_ci.domain.report import Report
from vllm_ci.pipeline.api import Pipeline
from vllm_ci.pipeline.execute import Function
from vllm_ci.pipeline.function_stage import FunctionStage
from vllm_ci.stages import user_code

FUNCTION = "pipeline"
_MODULE = "vllm_ci_user_pipeline"
# Modules next to pipelines loaded earlier: another project's may have the same names, and this one's may have changed.
_BESIDE: set[str] = set()
_SWITCH = "or disable the file with `pipeline: default` in vllm-ci.yaml"


@dataclass(frozen=True, kw_only=True)
class OwnPipeline:
    """A pipeline loaded from a file.

    Attributes:
        path: The file.
        function: The function ``pipeline`` of the file.
        stages: Names of the stages that the file defines.
    """

    path: Path
    function: Function
    stages: tuple[str, ...]

    async def __call__(self, ci: Pipeline) -> Report:
        """Run the pipeline; meanwhile, modules next to the file can be imported."""
        with importable(self.path.parent):
            return await self.function(ci)


def load(path: Path) -> OwnPipeline:
    """Import the file.

    Raises:
        ConfigError: The file cannot be imported, or has no async function ``pipeline`` that takes one argument.
    """
    module = _imported(path)
    function = getattr(module, FUNCTION, None)
    shown = user_code.shown(str(path))
    if function is None:
        raise ConfigError(
            f"{shown}:1: function `{FUNCTION}` not found",
            why="vllm-ci uses this file as the project's pipeline",
            remedy=f"add `async def {FUNCTION}(ci: Pipeline) -> Report` to it, {_SWITCH}",
        )
    if not inspect.iscoroutinefunction(function):
        raise ConfigError(
            f"{user_code.defined_at(function) or shown}: `{FUNCTION}` is not an async function",
            why="the steps of a pipeline are awaited",
            remedy=f"write `async def {FUNCTION}(ci: Pipeline) -> Report`",
        )
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise ConfigError(
            f"{user_code.defined_at(function)}: `{FUNCTION}` does not take one argument",
            why=str(error),
            remedy=f"write `async def {FUNCTION}(ci: Pipeline) -> Report`",
        ) from error
    return OwnPipeline(path=path, function=function, stages=_stages(module))


def _imported(path: Path) -> ModuleType:
    spec = util.spec_from_file_location(_MODULE, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file", remedy="name a file that ends in .py")
    module = util.module_from_spec(spec)
    for name in _BESIDE:
        sys.modules.pop(name, None)
    known = set(sys.modules)
    sys.modules[_MODULE] = module
    try:
        with importable(path.parent):
            spec.loader.exec_module(module)
    except VllmCiError as error:  # an invalid stage: the message names its line
        raise ConfigError(error.message, why=error.why, remedy=error.remedy) from error
    except (Exception, SystemExit) as error:
        where = user_code.place(error) or user_code.shown(str(path))
        raise ConfigError(
            f"{where}: {user_code.words(error)}",
            why="the project's pipeline cannot be imported",
            remedy=f"fix that line, {_SWITCH}",
        ) from error
    finally:
        _BESIDE.update(name for name in set(sys.modules) - known if _lies_in(sys.modules[name], path.parent))
    return module


def _lies_in(module: ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return bool(file) and Path(str(file)).is_relative_to(folder)


def _stages(module: ModuleType) -> tuple[str, ...]:
    """Names of the stages among the module's values: decorated functions, objects and classes with a stage's members."""
    members = ("programs", "result", "needs_server")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, FunctionStage) or all(hasattr(value, member) for member in members)
    ]
    return tuple(dict.fromkeys(str(each.name) for each in found if isinstance(getattr(each, "name", None), str)))


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Make modules of ``folder`` importable; no byte code is written there, since it would make the work tree dirty."""
    quiet, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.dont_write_bytecode = quiet
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
