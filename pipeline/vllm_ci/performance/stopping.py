"""Ends a measurement at a signal.

The handlers of the command line raise an exception where the program happens to be. In a callback of an event loop it can be
lost, so while a loop runs, the loop gets the signal.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from vllm_ci.loadgen.client import new_loop

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""``asyncio.Runner`` handles SIGINT."""


def ran(work: Coroutine[Any, Any, None]) -> bool:
    """Run ``work`` in a new event loop; whether it ended by itself, and not by Ctrl-C or a signal."""
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(until_stopped(work))
    except KeyboardInterrupt:
        return False
    return True


async def until_stopped(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work``; SIGTERM or SIGHUP cancels it, if the program has a handler for the signal.

    Raises:
        KeyboardInterrupt: It was cancelled by a signal.
    """
    task = asyncio.ensure_future(work)
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        task.cancel()

    with _handled(asyncio.get_running_loop(), stop):
        try:
            await task
        except asyncio.CancelledError:
            if not stopped:
                raise
            raise KeyboardInterrupt from None


@contextmanager
def _handled(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> Iterator[None]:
    found = {number: signal.getsignal(number) for number in _SIGNALS}
    here = threading.current_thread() is threading.main_thread()
    before = {number: handler for number, handler in found.items() if here and callable(handler)}
    for number in before:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
