"""Runs one command, and ends all of its processes when it ends or when the starter dies.

Standard library only; started by its path: ``python -I -S supervise.py GRACE_S ARGV``.

The starter has the other end of our standard input. When that pipe closes (the starter wants to stop, or it died, even by
SIGKILL) the command gets SIGTERM, and SIGKILL after ``GRACE_S`` seconds. All processes that it started are killed too, daemons
included: on Linux orphans become our children (``prctl(2)``, ``PR_SET_CHILD_SUBREAPER``). Exits with the command's exit code,
or 128 + N when signal N ended it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

_PR_SET_CHILD_SUBREAPER = 36


def _adopt_orphans() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _children() -> list[int]:
    """Direct children, including adopted ones; empty if /proc does not list them (then only the process group is killed)."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="utf-8") as file:  # noqa: PTH123 - pathlib is slow to import
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


class _Supervisor:
    """One command, the pipe to the starter, and signal handling."""

    def __init__(self, command: list[str]) -> None:
        self._wake, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self._stop_asked = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._ask_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # Kept until we exit: a Popen that is collected reaps its process, and the exit code is lost.
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
        self._child = self._process.pid
        self._status: int | None = None

    def _ask_stop(self, *_: object) -> None:
        self._stop_asked = True

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._child:
                    self._status = os.waitstatus_to_exitcode(status)

    def _signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child, number)

    def _wait(self, *, until: float | None, watch_starter: bool) -> bool:
        """Wait for the command to end; false at the timeout or when a stop was requested."""
        starter = [0] if watch_starter else []
        while True:
            self._reap()
            if self._status is not None:
                return True
            if watch_starter and self._stop_asked:
                return False
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return False
            readable, _, _ = select.select([self._wake, *starter], [], [], left)
            if self._wake in readable:
                os.read(self._wake, 512)
            if 0 in readable and not os.read(0, 512):
                return False

    def run(self, grace_s: float) -> int:
        if not self._wait(until=None, watch_starter=True):
            self._signal_group(signal.SIGTERM)
            self._wait(until=time.monotonic() + grace_s, watch_starter=False)
        self._signal_group(signal.SIGKILL)
        while children := _children():
            for pid in children:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            self._reap()
            time.sleep(0.005)
        self._reap()
        status = -signal.SIGKILL if self._status is None else self._status
        return 128 - status if status < 0 else status


def main(arguments: list[str]) -> int:
    """Run ``arguments[1:]`` with a grace period of ``arguments[0]`` seconds."""
    _adopt_orphans()
    try:
        supervisor = _Supervisor(arguments[1:])
    except OSError as error:
        print(f"{arguments[1]}: {error.strerror}", file=sys.stderr)  # noqa: T201 - standard error is its only output
        return 126 if isinstance(error, PermissionError) else 127
    return supervisor.run(float(arguments[0]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
