"""Terminates external programs when the process that started them dies, however it dies.

One guard process for each of our processes that starts programs: ``python -I -S external_guard.py MARK``. Standard library
only. Its standard input is a pipe whose other end only the starter has. When the pipe closes, the guard ends every process that
has the mark in its environment (``proc_pid_environ(5)``), with its process group: children inherit the mark, and a program has
it from its first instruction on.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

VARIABLE = "VLLM_CI_STARTED_BY"

_GRACE_S = 2.0
_LONGEST_S = 10.0


def mark() -> str:
    """Value of :data:`VARIABLE` for programs started by this process; unique to this process."""
    return _guard.mark


def watch() -> None:
    """Start the guard of this process unless it is running."""
    _guard.start()


class _Guard:
    """The guard of this process, started on first use."""

    def __init__(self) -> None:
        os.register_at_fork(after_in_child=self._after_fork)
        self._old: list[subprocess.Popen[bytes]] = []  # kept, because Popen warns when it is collected while running
        self._begin()

    def _begin(self) -> None:
        self.mark = f"{os.getpid()}-{time.time_ns()}"
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return
            atexit.register(self.close)
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, self.mark],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a signal to our process group must not end the guard
            )

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
            process.wait()

    def _after_fork(self) -> None:
        """In a forked child: close the parent's pipe, and start with no guard."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._old.append(self._process)
        self._begin()


_guard = _Guard()


def _marked(wanted: bytes) -> list[int]:
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and int(place.name) != os.getpid():
            with contextlib.suppress(OSError):
                if wanted in (place / "environ").read_bytes().split(b"\0"):
                    found.append(int(place.name))
    return found


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        # The program leads its own session, so these groups contain no other processes.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(os.getpgid(pid), number)


def main(mark: str) -> None:
    """Wait until standard input closes, then end all processes with the mark."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    wanted = f"{VARIABLE}={mark}".encode()
    began = time.monotonic()
    while (pids := _marked(wanted)) and time.monotonic() < began + _LONGEST_S:
        _signal(pids, signal.SIGKILL if time.monotonic() > began + _GRACE_S else signal.SIGTERM)
        time.sleep(0.1)


if __name__ == "__main__":
    main(sys.argv[1])
