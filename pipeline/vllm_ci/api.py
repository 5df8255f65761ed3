"""What ``import vllm_ci`` offers beside the pipeline's own objects: opening a project, and running its pipeline anywhere."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from vllm_ci.config import load
from vllm_ci.config.checkout import open_project
from vllm_ci.config.load import Loaded
from vllm_ci.domain.events import Emit
from vllm_ci.domain.project import Project
from vllm_ci.domain.report import Report
from vllm_ci.engine import Engine
from vllm_ci.engines import choose, open_engine
from vllm_ci.pipeline import default
from vllm_ci.pipeline.api import Pipeline
from vllm_ci.pipeline.execute import Function, execute
from vllm_ci.pipeline.loading import OwnPipeline
from vllm_ci.pipeline.loading import load as load_pipeline
from vllm_ci.pipeline.source import Source
from vllm_ci.report import folder, redaction


def _silent(event: object) -> None:
    """Report to no one."""


@asynccontextmanager
async def open_pipeline(
    path: str | os.PathLike[str] = ".",
    *,
    engine: str | Engine = "auto",
    stages: Sequence[str] = (),
    matrix: bool = False,
    emit: Emit = _silent,
    source: Source | None = None,
) -> AsyncIterator[Pipeline]:
    """Open a project, to call its steps one by one: in a notebook, a script or a test.

    Args:
        path: A directory with ``vllm-ci.yaml`` in it or above it, or that file itself.
        engine: ``auto``, ``host``, ``dagger``, ``memory``, or an open engine.
        stages: Which stages to run; by default those that the configuration enables.
        matrix: Test the other servers of ``matrix:`` as well.
        emit: Is told of every start and end of a step; by default no one is.
        source: Commit and files as directories of the engine, where git cannot be asked (a function of a Dagger module);
            ``path`` then holds only ``vllm-ci.yaml`` at its place in the checkout.

    Raises:
        ConfigError: The configuration is not valid, or there is no such stage.
        UsageError: It lies in no git checkout.
    """
    found, _ = _project(path, stages, source)
    async with _entered(engine, found.loaded) as entered:
        yield found.pipeline(entered, matrix=matrix, emit=emit)


async def run_pipeline(
    path: str | os.PathLike[str] = ".",
    *,
    engine: str | Engine = "auto",
    pipeline: Function | None = None,
    stages: Sequence[str] = (),
    matrix: bool = False,
    emit: Emit = _silent,
    report_dir: str | os.PathLike[str] | None = None,
    source: Source | None = None,
) -> Report:
    """Run a project's pipeline to its report: as ``vllm-ci run`` does, from Python.

    Args:
        path: A directory with ``vllm-ci.yaml`` in it or above it, or that file itself.
        engine: ``auto``, ``host``, ``dagger``, ``memory``, or an open engine.
        pipeline: The pipeline; by default the project's own (``ci/pipeline.py``), or else that of vllm-ci.
        stages: Which stages to run; by default those that the configuration enables.
        matrix: Test the other servers of ``matrix:`` as well.
        emit: Is told of every start and end of a step; by default no one is.
        report_dir: Directory that gets one directory per run, with all reports and logs; by default nothing is written.
        source: Commit and files as directories of the engine, where git cannot be asked (a function of a Dagger module);
            ``path`` then holds only ``vllm-ci.yaml``, and the pipeline's file if there is one, at their places in the checkout.

    Raises:
        ConfigError: The configuration or the pipeline's file is not valid, there is no such stage, or what is asked for cannot
            be built.
        UsageError: The project lies in no git checkout.
    """
    found, own = _project(path, stages, source)
    async with _entered(engine, found.loaded) as entered:
        ci = found.pipeline(entered, matrix=matrix, emit=emit)
        result = await execute(ci, pipeline or own or default.pipeline)
    report = redaction.redacted(result.report, found.secrets)
    if report_dir is not None:
        folder.write(Path(report_dir), report, result.logs, secrets=found.secrets)
    return report


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A project that can be run.

    Attributes:
        loaded: Its configuration.
        project: What that asks for.
        secrets: Values that may stand in no report.
        source: Its files, as directories of an engine.
    """

    loaded: Loaded
    project: Project
    secrets: tuple[str, ...]
    source: Callable[[Engine], Source]

    def pipeline(self, engine: Engine, *, matrix: bool, emit: Emit) -> Pipeline:
        variants = self.loaded.config.matrix.domain() if matrix else None
        return Pipeline(engine=engine, project=self.project, source=self.source(engine), emit=emit, matrix=variants)


def _project(path: str | os.PathLike[str], stages: Sequence[str], source: Source | None) -> tuple[_Found, OwnPipeline | None]:
    top = Path(path).absolute()
    loaded = load.load(load.find(top) if top.is_dir() else top)
    file = loaded.pipeline
    own = load_pipeline(file.path) if file is not None else None
    names = own.stages if own else ()
    if source is None:
        found = open_project(loaded, tuple(stages), changes=True, own=names)
        return _Found(loaded=loaded, project=found.project, secrets=found.secrets, source=found.source), own
    place = (
        loaded.path.relative_to(top).as_posix() if loaded.path.is_relative_to(top) and loaded.path != top else loaded.path.name
    )
    project = loaded.project(place, tuple(stages), own=names)
    return _Found(loaded=loaded, project=project, secrets=tuple(source.secrets.values()), source=lambda _: source), own


@asynccontextmanager
async def _entered(engine: str | Engine, loaded: Loaded) -> AsyncIterator[Engine]:
    """An engine by its name, opened for as long as the context lasts; one that is given is the caller's to open."""
    async with AsyncExitStack() as stack:
        if isinstance(engine, str):
            name = choose(engine if engine != "auto" else loaded.config.engine)[0]
            engine = await stack.enter_async_context(open_engine(name, port=loaded.config.server.port))
        yield engine
