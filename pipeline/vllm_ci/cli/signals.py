"""Makes SIGTERM and SIGHUP end a command like Ctrl-C: locks are released and started programs are stopped."""

from __future__ import annotations

import signal
import threading
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
