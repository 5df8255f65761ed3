"""Runs of projects with one stage of their own."""

from __future__ import annotations

from pathlib import Path

from standin.repository import repository
from vllm_ci import (
    MemoryEngine,
    Report,
    StageResult,
    run_pipeline,
)

CONFIG = """
version: 1
stages:
  unit: {enabled: false}
  integration: {enabled: false}
  streaming: {enabled: false}
  security: {enabled: false}
"""
HEAD = "from vllm_ci import *\n"


async def only(folder: Path, stage: str, engine: MemoryEngine | None = None, **options: object) -> Report:
    """A run of the default pipeline with one stage, ``smoke``, and none of ours."""
    repository(folder, config=f"{CONFIG}  smoke: {stage}\n")
    report = await run_pipeline(folder, engine=engine or MemoryEngine(), **options)  # type: ignore[arg-type]
    assert [each.name for each in report.stages] == ["smoke"]
    return report


async def in_python(folder: Path, stage: str, target: str = "server", **options: object) -> StageResult:
    """The result of a stage ``smoke`` that the user's pipeline defines."""
    body = f"""
async def pipeline(ci):
    image = await ci.build()
    async with ci.serve(image) as server:
        await ci.test({target}, smoke)
    return ci.report()
"""
    repository(folder, f"{HEAD}{stage}{body}")
    report = await run_pipeline(folder, engine=MemoryEngine(answers={"/health": {"up": True}}), **options)  # type: ignore[arg-type]
    assert report.problem is None, report.problem
    (result,) = report.stages
    return result
