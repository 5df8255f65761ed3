"""What is mounted beside an image so that pytest can run in it."""

from __future__ import annotations

from dataclasses import replace

from vllm_ci.domain.errors import ErroredError
from vllm_ci.domain.program import Directory, Program
from vllm_ci.engine import Engine
from vllm_ci.stages import reading, wants_pytest_inside
from vllm_ci.stages.running import Runner
from vllm_ci.stages.stage import StageContext


async def tools(engine: Engine) -> Directory:
    """What is mounted beside an image so that pytest can run in it."""
    program = Program(name="tools", argv=("python", "-m", "vllm_ci.stages.mounts", "{out}"))
    outcome = await engine.run(program)
    if not outcome:
        raise ErroredError("pytest could not be laid out for the image", why=reading.tail(outcome.log), remedy="vllm-ci doctor")
    return outcome.output


async def laid_out(runner: Runner, rows: dict[str, StageContext]) -> dict[str, StageContext]:
    """The rows that can run: pytest is laid out for those that run it inside the image; if it cannot be, they are errored.

    Args:
        runner: Runs them.
        rows: What is judged, by row.
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
