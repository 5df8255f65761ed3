"""Lock files, for threads and processes; the kernel releases a lock when its holder dies. No other module takes locks.

Format: ``flock(2)`` on an empty file. Only the holder deletes a lock file. A process that gets a lock checks that the file
still has its name, and otherwise tries again; so two processes never hold the lock of one name.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vllm_ci.domain.errors import ConfigError, ErroredError

TIMEOUT_VARIABLE = "VLLM_CI_LOCK_TIMEOUT_S"
# The holder may be compiling a wheel.
_PATIENCE_S = 6 * 3600.0
# A wait that is longer than this is worth a message.
_NOTICED_S = 0.5
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class LockedError(ErroredError):
    """Another process held the lock until the timeout."""


@contextmanager
def hold(
    path: Path, *, shared: bool = False, timeout_s: float | None = None, waiting: Callable[[list[str]], None] | None = None
) -> Iterator[None]:
    """Hold the lock on the file ``path``.

    Args:
        path: Lock file; created with its directory if it does not exist.
        shared: Take a shared lock.
        timeout_s: Longest wait in seconds, 0 for none; by default ``VLLM_CI_LOCK_TIMEOUT_S`` or six hours.
        waiting: Called once with the holders, if the wait is not over at once.

    Raises:
        ErroredError: The file system does not support locks.
        LockedError: Other processes held it until the timeout; the message names them.
    """
    handle = _taken(path, shared=shared, timeout_s=_patience() if timeout_s is None else timeout_s, waiting=waiting)
    try:
        yield
    finally:
        os.close(handle)


def take(path: Path, *, shared: bool = False, timeout_s: float | None = None) -> int:
    """Take the lock as :func:`hold` does; an open descriptor that holds it until it is closed in every process that has it.

    It is for a process that outlives this one: pass the descriptor on, and close it here.
    """
    return _taken(path, shared=shared, timeout_s=_patience() if timeout_s is None else timeout_s, waiting=None)


def holders(path: Path) -> list[str]:
    """Holders of the lock file as ``PID (COMMAND)``; empty if the system does not list them (``proc_locks(5)``)."""
    try:
        status = path.stat()
        rows = Path("/proc/locks").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    wanted = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    fields = [row.split() for row in rows]
    pids = {row[4] for row in fields if len(row) > 5 and row[1] == "FLOCK" and row[5] == wanted}
    return [f"{pid} ({_command(pid)})" for pid in sorted(pids)]


def _command(pid: str) -> str:
    try:
        words = Path("/proc", pid, "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return "a process that is not visible here"
    return " ".join(words).strip()[:120]


def _patience() -> float:
    text = os.environ.get(TIMEOUT_VARIABLE, "").strip()
    try:
        seconds = float(text) if text else _PATIENCE_S
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ConfigError(f"{TIMEOUT_VARIABLE} is {text!r}", remedy="set it to a number of seconds, or unset it")
    return seconds


def _taken(path: Path, *, shared: bool, timeout_s: float, waiting: Callable[[list[str]], None] | None) -> int:
    end = time.monotonic() + timeout_s
    notice = time.monotonic() + _NOTICED_S
    pause = 0.001
    while True:
        handle = _opened(path)
        try:
            locked = _locked(handle, path, shared=shared)
            if locked and _is_current(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if locked:
            continue
        if time.monotonic() >= end:
            raise LockedError(
                f"{path} is locked",
                why=f"held by {', '.join(holders(path)) or 'another process'} for more than {timeout_s:g} s",
                remedy=f"wait for that process or stop it, then retry; set {TIMEOUT_VARIABLE}=SECONDS to wait longer",
            )
        if waiting is not None and time.monotonic() >= notice:
            waiting(holders(path))
            waiting = None
        time.sleep(min(pause, max(end - time.monotonic(), 0.0)))
        pause = min(pause * 1.5, 0.05)


def _opened(path: Path) -> int:
    while True:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)


def _locked(handle: int, path: Path, *, shared: bool) -> bool:
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        raise ErroredError(
            f"{path} cannot be locked", why=str(error), remedy="set VLLM_CI_HOME to a directory on a local disk"
        ) from error
    return True


def _is_current(handle: int, path: Path) -> bool:
    """Whether the open file still has its name: its previous holder may have deleted it."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(handle)
    return (mine.st_dev, mine.st_ino) == (found.st_dev, found.st_ino)
