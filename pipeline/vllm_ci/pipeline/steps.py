"""The pipeline steps as functions, called by the command line and the Dagger module.

Pipelines use :class:`vllm_ci.pipeline.api.Pipeline`; the default one is ``default.py`` in this package.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from vllm_ci.domain.events import Emit
from vllm_ci.domain.program import Service
from vllm_ci.domain.project import Project
from vllm_ci.domain.stage import StageSpec
from vllm_ci.domain.variant import Matrix
from vllm_ci.engine import Engine
from vllm_ci.pipeline.api import Pipeline
from vllm_ci.pipeline.building import Built, build
from vllm_ci.pipeline.default import pipeline
from vllm_ci.pipeline.execute import Function, execute
from vllm_ci.pipeline.record import RunRecord, RunResult, rows
from vllm_ci.pipeline.serving import fitted, held, model, service
from vllm_ci.pipeline.source import Source
from vllm_ci.stages.running import Runner
from vllm_ci.stages.stage import StageContext

__all__ = ["Built", "RunRecord", "RunResult", "Source", "build", "fitted", "model", "rows", "run", "serve", "service", "test"]


@asynccontextmanager
async def serve(engine: Engine, project: Project, source: Source, emit: Emit) -> AsyncIterator[tuple[Built, Service]]:
    """Build the image, create the model and serve it."""
    built = await build(engine, project, source, emit)
    checkpoint = await model(engine, project, source, built.image, emit)
    project = await fitted(engine, project, built, checkpoint, emit)
    async with held(engine, service(engine, project, built, checkpoint), project.model.served_name, emit) as served:
        yield built, served


async def run(
    engine: Engine,
    project: Project,
    source: Source,
    emit: Emit,
    matrix: Matrix | None = None,
    record: RunRecord | None = None,
    *,
    function: Function = pipeline,
) -> RunResult:
    """Run a pipeline, by default build, serve, test, report; with a matrix also against its servers, one after another.

    Every failure is part of the report: of a stage, of a server, or of a step that stages need.

    Args:
        engine: Where everything runs.
        project: The configured project.
        source: Its files.
        emit: Called for each step.
        matrix: Further servers to test.
        record: Collects the results, for callers that may stop the run early; it has its own ``emit``.
        function: The pipeline.

    Raises:
        ConfigError: The configuration cannot be built.
    """
    record = record or RunRecord(emit=emit)
    ci = Pipeline(engine=engine, project=project, source=source, matrix=matrix, record=record)
    return await execute(ci, function)


async def test(
    engine: Engine,
    stages: Sequence[StageSpec],
    context: StageContext,
    emit: Emit,
    record: RunRecord | None = None,  # noqa: PT028 - not a pytest test
) -> RunResult:
    """Test an external server at ``context.url``; the caller leaves out stages that need an image.

    The machine of the server is unknown, so the report has no facts about it.
    """
    record = record or RunRecord(emit=emit)
    record.engine, record.rows = engine.name, [spec.name for spec in stages]
    runner = record.runner = Runner(engine=engine, emit=record)
    for spec in stages:
        await runner.run(replace(context, spec=spec))
    return record.run()
