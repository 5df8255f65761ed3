"""Makes SIGTERM and SIGHUP end a command like Ctrl-C: locks are released and started programs are stopped."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(KeyboardInterrupt):
    """A signal was received; not an ``Exception``, so that ``except Exception`` does not catch it."""


def catch() -> None:
    """Raise :class:`Stopped` in the main thread on a signal, unless the signal already has a handler."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _stop)


def _stop(number: int, _: FrameType | None) -> None:
    from vllm_ci.system import external  # not imported for --help

    # Threads that wait for a program cannot be interrupted, but continue when it ends.
    external.end_running()
    raise Stopped(f"stopped by {signal.Signals(number).name}")


@contextmanager
def put_off() -> Iterator[None]:
    """Do what is inside to its end before a signal ends the command: results are written that took long to get.

    A second signal ends it at once.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    if threading.current_thread() is not threading.main_thread():
        before.clear()
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            raise Stopped(f"stopped by {signal.Signals(number).name}")

    handled = {number: handler for number, handler in before.items() if callable(handler)}
    for number in handled:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
    if came:
        raise Stopped(f"stopped by {signal.Signals(came[0]).name}")
