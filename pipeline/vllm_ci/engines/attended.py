"""A process that holds a socket and starts what listens on it again when that dies: connections wait meanwhile."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from vllm_ci.system import filelock

_BACKLOG = 4096
_PAUSE_S, _LONGEST_S = 0.2, 10.0


def attended(lock: Path, address: Path, work: Callable[[socket.socket], None]) -> None:
    """Run ``work`` in a process of its own until it returns, again and again where it is killed or fails.

    Args:
        lock: Lock file. Only one process at a time does this; others return at once.
        address: Unix socket to listen on.
        work: Is given the socket.

    Raises:
        OSError: The socket cannot be made.
    """
    with suppress(filelock.LockedError), filelock.hold(lock, timeout_s=0), bound(address) as listener:
        pause = _PAUSE_S
        while True:
            begun = time.monotonic()
            if _ran(listener, work):
                return
            pause = _PAUSE_S if time.monotonic() - begun > _LONGEST_S else min(pause * 2, _LONGEST_S)
            time.sleep(pause)


def bound(address: Path) -> socket.socket:
    """A Unix socket that listens on a path of any length, which only this user can open.

    Raises:
        OSError: It cannot be made.
    """
    address.unlink(missing_ok=True)
    found = socket.socket(socket.AF_UNIX)
    # The path of a socket has 107 bytes at most (unix(7)), and that of the folder may be longer.
    handle = os.open(address.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        found.bind(f"/proc/self/fd/{handle}/{address.name}")
    finally:
        os.close(handle)
    address.chmod(0o600)
    found.listen(_BACKLOG)
    return found


def _ran(listener: socket.socket, work: Callable[[socket.socket], None]) -> bool:
    """Run it once; whether it returned."""
    child = os.fork()
    if not child:
        _become(listener, work)
    before = signal.signal(signal.SIGTERM, lambda *_: _ended(child))
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)


def _become(listener: socket.socket, work: Callable[[socket.socket], None]) -> None:
    code = 1
    try:
        work(listener)
        code = 0
    except Exception as error:  # noqa: BLE001 - nobody is above this process
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    finally:
        sys.stderr.flush()
        os._exit(code)


def _ended(child: int) -> None:
    """End with the child."""
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    os._exit(0)
