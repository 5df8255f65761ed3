"""What is mounted beside an image so that pytest can run in it."""

from __future__ import annotations

from vllm_ci.domain.errors import ErroredError
from vllm_ci.domain.program import Directory, Program
from vllm_ci.engine import Engine
from vllm_ci.stages import reading


async def tools(engine: Engine) -> Directory:
    """What is mounted beside an image so that pytest can run in it."""
    program = Program(name="tools", argv=("python", "-m", "vllm_ci.stages.mounts", "{out}"))
    outcome = await engine.run(program)
    if not outcome:
        raise ErroredError("pytest could not be laid out for the image", why=reading.tail(outcome.log), remedy="vllm-ci doctor")
    return outcome.output
