"""A signal ends a measurement, wherever the program happens to be when it comes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import pytest

from vllm_ci.loadgen.client import new_loop
from vllm_ci.performance.stopping import until_stopped


@pytest.fixture(params=[signal.SIGTERM, signal.SIGHUP])
def number(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """A signal whose handler raises nothing: as if its exception had been lost."""
    found: signal.Signals = request.param
    before = signal.signal(found, _lost)
    yield found
    assert signal.getsignal(found) is _lost
    signal.signal(found, before)


def _lost(*_: object) -> None:
    pass


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, new_loop])
def test_a_signal_ends_the_work(number: signal.Signals, factory: object) -> None:
    async def work() -> None:
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), number)
        await asyncio.sleep(30)

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt), asyncio.Runner(loop_factory=factory) as runner:  # type: ignore[arg-type]
        runner.run(until_stopped(work()))
    assert time.monotonic() - begun < 10


def test_work_that_ends_by_itself_leaves_the_handlers_as_they_were(number: signal.Signals) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(until_stopped(asyncio.sleep(0)))
    assert signal.getsignal(number) is _lost


def test_an_error_of_the_work_is_raised() -> None:
    async def work() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"), asyncio.Runner() as runner:
        runner.run(until_stopped(work()))
