"""Processes that outlive the program that started them, and that another program finds again.

A process is known by its id, its start time and the boot of the machine (``proc(5)``): an id alone may belong to another one
by now. Linux only.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_ci.domain.errors import EngineError
from vllm_ci.engines import supervise

MARK = "VLLM_CI_DETACHED"
"""Variable in the environment of a detached process and of everything it starts; its value tells whose it is."""

_PAGE = os.sysconf("SC_PAGE_SIZE")
# Ids of those that are ours: whoever looks at one that has ended reaps it, else it stays visible as a zombie.
_children: set[int] = set()


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One process of this machine.

    Attributes:
        pid: Its id.
        started: Its start time, in clock ticks since the boot.
        boot: Id of the boot.
    """

    pid: int
    started: int
    boot: str

    @property
    def alive(self) -> bool:
        """Whether it still runs; a process that took over its id does not count."""
        _reap(self.pid)
        return self.boot == _boot() and _stat(self.pid) == ("running", self.started)

    def signal(self, number: int) -> None:
        """Send a signal if it still runs."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def supervised(command: Sequence[str], grace_s: float) -> list[str]:
    """Command line that runs ``command`` and, on SIGTERM, ends it with everything it started, after at most ``grace_s``."""
    return [sys.executable, "-I", "-S", supervise.__file__, str(grace_s), *command]


def start(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path, mark: str, keep: Iterable[int] = ()
) -> Identity:
    """Start a process in a session of its own.

    Args:
        argv: Command line; the program is not searched for.
        env: Its environment.
        cwd: Its working directory.
        log: File that its output is appended to.
        mark: Value of the variable :data:`MARK`.
        keep: Descriptors that it holds for as long as it lives (locks).

    Raises:
        EngineError: It cannot be started.
    """
    # The supervisor ends its command at the end of its standard input: it holds the other end of this pipe itself.
    reading, writing = os.pipe()
    try:
        with log.open("ab") as output, _many_files():
            process = subprocess.Popen(
                list(argv),
                env={**env, MARK: mark},
                cwd=cwd,
                stdin=reading,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=(writing, *keep),
            )
    except OSError as error:
        raise EngineError(f"cannot start {argv[0]}", why=str(error), remedy="run vllm-ci doctor") from error
    finally:
        os.close(reading)
        os.close(writing)
    _children.add(process.pid)
    process.returncode = 0  # it may outlive us, and is waited for in _reap()
    end = time.monotonic() + 1
    while _stat(process.pid) and not _is_marked(process.pid, mark) and time.monotonic() < end:
        time.sleep(0.001)  # while it is executed it has no environment yet
    found = _stat(process.pid)
    return Identity(pid=process.pid, started=found[1] if found else 0, boot=_boot())


def marked(mark: str) -> list[int]:
    """Ids of all processes with this mark that may be looked into."""
    pids = [int(each.name) for each in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if _is_marked(pid, mark)]


def marks(beginning: str) -> set[str]:
    """All marks of processes that begin so."""
    found = set()
    start = f"{MARK}={beginning}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            each = (folder / "environ").read_bytes().split(b"\0")
            found |= {value.partition(b"=")[2].decode(errors="replace") for value in each if value.startswith(start)}
    return found


def end_marked(mark: str) -> None:
    """End what is left of a process whose supervisor was killed, at once."""
    end = time.monotonic() + 5
    while time.monotonic() < end and (left := [pid for pid in marked(mark) if _stat(pid)]):
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            _reap(pid)
        time.sleep(0.01)


def memory_bytes(mark: str) -> int:
    """Resident memory of all processes with this mark; pages that they share count for each."""
    total = 0
    for pid in marked(mark):
        with contextlib.suppress(OSError, ValueError, IndexError):
            total += int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    return total


def _is_marked(pid: int, mark: str) -> bool:
    try:
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


@contextlib.contextmanager
def _many_files() -> Iterator[None]:
    """What is started may open as many files as this user may allow: a stream is two, and many systems start with 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 2**20 if hard == resource.RLIM_INFINITY else min(hard, 2**20)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _reap(pid: int) -> None:
    if pid in _children:
        try:
            ended = os.waitpid(pid, os.WNOHANG)[0] != 0
        except ChildProcessError:  # other code in this process has waited for all children
            ended = True
        if ended:
            _children.discard(pid)


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _stat(pid: int) -> tuple[str, int] | None:
    """``running`` and the start time of a process; ``None`` when it has ended, even if nobody has reaped it."""
    try:
        # The name of the program stands in parentheses and may have any characters in it.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZXx" else ("running", int(fields[19]))
