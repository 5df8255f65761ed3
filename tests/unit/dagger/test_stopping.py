"""A program in a container that is stopped."""

from __future__ import annotations

from dataclasses import dataclass

import anyio
import pytest

from vllm_ci.domain.errors import EngineError
from vllm_ci.domain.program import Outcome, Program
from vllm_ci.engines.dagger import DaggerEngine


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass(kw_only=True)
class Endless(DaggerEngine):
    """Its containers never end, or break at once."""

    breaks: bool = False

    async def _cached(self, program: Program) -> Outcome:
        if self.breaks:
            raise EngineError(f"{program.name} broke")
        await anyio.sleep_forever()
        raise AssertionError


@pytest.mark.anyio
async def test_a_program_that_is_stopped_is_given_up_and_says_so() -> None:
    stop = anyio.Event()
    outcomes: list[Outcome] = []

    async def run() -> None:
        outcomes.append(await Endless().run(Program(name="endless", argv=("true",)), stop=stop))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await anyio.sleep(0.05)
            stop.set()
    assert outcomes[0].stopped
    assert not outcomes[0]
    assert await outcomes[0].output.names() == ()
    with pytest.raises(FileNotFoundError):
        await outcomes[0].output.read("cases.json")


@pytest.mark.anyio
async def test_an_error_is_raised_as_it_is_though_a_stop_is_awaited() -> None:
    with anyio.fail_after(10), pytest.raises(EngineError, match="endless broke"):
        await Endless(breaks=True).run(Program(name="endless", argv=("true",)), stop=anyio.Event())
