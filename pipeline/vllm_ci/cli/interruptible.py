"""Runs a command's coroutine so that Ctrl-C, SIGTERM and SIGHUP stop what it started, in order."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from vllm_ci.domain.errors import Interrupted

_Result = TypeVar("_Result")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(main: Callable[[], Awaitable[_Result]]) -> _Result:
    """Result of ``main()``.

    The first signal cancels it, and what it holds is stopped; a second one leaves at once (supervisors then stop what is left).

    Raises:
        Interrupted: A signal came.
    """
    return anyio.run(_run, main)


async def _run(main: Callable[[], Awaitable[_Result]]) -> _Result:
    results: list[_Result] = []
    errors: list[Exception] = []
    caught: list[str] = []

    async def work(done: Callable[[], None]) -> None:
        try:
            results.append(await main())
        except Exception as error:  # noqa: BLE001 - raised again below, outside the group's wrapping
            errors.append(error)
        finally:
            done()

    with anyio.open_signal_receiver(*_SIGNALS) as signals:
        async with anyio.create_task_group() as outer, anyio.create_task_group() as inner:

            async def listen() -> None:
                async for number in signals:
                    if caught:
                        os._exit(Interrupted.exit_code)
                    caught.append(signal.Signals(number).name)
                    inner.cancel_scope.cancel()

            outer.start_soon(listen)
            inner.start_soon(work, outer.cancel_scope.cancel)
    if caught:
        raise Interrupted(f"stopped by {caught[0]}", why="a signal came", remedy="nothing is left running; call it again")
    if errors:
        raise errors[0]
    return results[0]
