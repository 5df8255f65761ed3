"""Mount pytest and the built-in tests into an image."""

from __future__ import annotations

from dataclasses import replace

from vllm_ci.domain.errors import ErroredError
from vllm_ci.domain.program import Directory, Program
from vllm_ci.engine import Engine
from vllm_ci.stages import reading, wants_pytest_inside
from vllm_ci.stages.running import Runner
from vllm_ci.stages.stage import StageContext


async def tools(engine: Engine) -> Directory:
    """The directory to mount so that pytest can run inside an image."""
    program = Program(name="tools", argv=("python", "-m", "vllm_ci.stages.mounts", "{out}"))
    outcome = await engine.run(program)
    if not outcome:
        raise ErroredError("pytest could not be prepared for the image", why=reading.tail(outcome.log), remedy="vllm-ci doctor")
    return outcome.output


async def laid_out(runner: Runner, rows: dict[str, StageContext]) -> dict[str, StageContext]:
    """Prepare pytest for rows that run it inside the image; if that fails they are errored. Returns the rows that can run.

    Args:
        runner: Runs the stages.
        rows: Contexts by row.
    """
    wanting = [row for row, context in rows.items() if context.stage is None and wants_pytest_inside(context.spec)]
    if not wanting or runner.interrupted:
        return rows
    try:
        found = await tools(runner.engine)
    except ErroredError as error:
        for row in wanting:
            runner.could_not(row, str(error))
        return {row: context for row, context in rows.items() if row not in wanting}
    return {row: replace(context, tools=found) for row, context in rows.items()}
