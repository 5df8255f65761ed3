"""Functions of ``vllm_ci`` to open a project and to run its pipeline from Python."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from vllm_ci.config import load
from vllm_ci.config.checkout import open_project
from vllm_ci.config.load import Loaded
from vllm_ci.domain.events import Emit, ignore
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


@asynccontextmanager
async def open_pipeline(
    path: str | os.PathLike[str] = ".",
    *,
    engine: str | Engine = "auto",
    stages: Sequence[str] = (),
    matrix: bool = False,
    emit: Emit = ignore,
    source: Source | None = None,
) -> AsyncIterator[Pipeline]:
    """Open a project to call its pipeline steps one by one: in a notebook, a script or a test.

    Args:
        path: The configuration file, or a directory with ``vllm-ci.yaml`` in it or in a parent directory.
        engine: ``auto``, ``host``, ``dagger``, ``memory``, or an open engine.
        stages: Stages to run; by default the enabled ones.
        matrix: Also test the servers of ``matrix:``.
        emit: Called at every start and end of a step; by default events are ignored.
        source: Commit and files as directories of the engine, if git is not available (in a Dagger module);
            ``path`` then needs only ``vllm-ci.yaml`` at its path in the checkout.

    Raises:
        ConfigError: The configuration is invalid, or there is no such stage.
        UsageError: The project is not in a git checkout.
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
    emit: Emit = ignore,
    report_dir: str | os.PathLike[str] | None = None,
    source: Source | None = None,
) -> Report:
    """Run a project's pipeline and return its report, like ``vllm-ci run``.

    Args:
        path: The configuration file, or a directory with ``vllm-ci.yaml`` in it or in a parent directory.
        engine: ``auto``, ``host``, ``dagger``, ``memory``, or an open engine.
        pipeline: The pipeline; by default the project's (``ci/pipeline.py``), otherwise the default pipeline.
        stages: Stages to run; by default the enabled ones.
        matrix: Also test the servers of ``matrix:``.
        emit: Called at every start and end of a step; by default events are ignored.
        report_dir: Directory for reports and logs, with a subdirectory per run; by default nothing is written.
        source: Commit and files as directories of the engine, if git is not available (in a Dagger module);
            ``path`` then needs only ``vllm-ci.yaml`` and the pipeline file, if any, at their paths in the checkout.

    Raises:
        ConfigError: The configuration or the pipeline file is invalid, there is no such stage, or the configuration cannot
            be built.
        UsageError: The project is not in a git checkout.
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
        loaded: The configuration.
        project: The configured project.
        secrets: Values that must not appear in reports.
        source: The files, as directories of an engine.
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
    """Open an engine by name for the duration of the context; an engine object is used as it is."""
    async with AsyncExitStack() as stack:
        if isinstance(engine, str):
            name = choose(engine if engine != "auto" else loaded.config.engine)[0]
            engine = await stack.enter_async_context(open_engine(name, port=loaded.config.server.port))
        yield engine
