"""SIGTERM and SIGHUP end a command as Ctrl-C does: what it holds is given back, and what it started is ended."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Stopped(KeyboardInterrupt):
    """A signal came; no ``except Exception`` on the way out takes it for something else."""


def catch() -> None:
    """Raise :class:`Stopped` in the main thread when a signal comes; signals that somebody else handles are left to them."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _stop)


def _stop(number: int, _: FrameType | None) -> None:
    from vllm_ci.system import external  # --help needs none of it

    # Threads that wait for a program cannot be interrupted; they go on when it ends.
    external.end_running()
    raise Stopped(f"stopped by {signal.Signals(number).name}")
