"""What a server process on this machine uses, read from ``/proc`` (proc(5)); it is found by the port on which it listens."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_PROC = Path("/proc")
_LISTENS = "0A"
_LOCAL = ("127.", "::1", "localhost")


@dataclass(frozen=True, kw_only=True)
class Used:
    """What a process and its descendants use.

    Attributes:
        rss_bytes: Resident memory, shared pages counted in each process.
        pss_bytes: Resident memory, shared pages divided among their processes; ``None`` where it may not be read.
        cpu_s: Processor seconds since their starts.
        open_files: File descriptors; ``None`` where they may not be read.
        processes: Number of processes.
    """

    rss_bytes: int
    pss_bytes: int | None
    cpu_s: float
    open_files: int | None
    processes: int


def listening(url: str) -> int | None:
    """The process that listens on the port of a URL of this machine; ``None`` for other machines, or if it cannot be found.

    Args:
        url: Base URL of a server.
    """
    parts = urlsplit(url)
    if not parts.hostname or not parts.hostname.startswith(_LOCAL):
        return None
    inodes = set(_sockets(parts.port or (443 if parts.scheme == "https" else 80)))
    owners = [pid for pid in _all() if inodes & set(_inodes(pid))] if inodes else []
    # Workers inherit the socket: the oldest process is their parent.
    return min(owners, key=_started, default=None)


def _sockets(port: int) -> Iterator[str]:
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (_PROC / "net" / name).read_text(encoding="ascii").splitlines()[1:]:
                cells = line.split()
                if cells[3] == _LISTENS and int(cells[1].rpartition(":")[2], 16) == port:
                    yield cells[9]


def _all() -> list[int]:
    return [int(each.name) for each in _PROC.iterdir() if each.name.isdigit()]


def _inodes(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for file in (_PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(file.readlink())
                if target.startswith("socket:["):
                    yield target[8:-1]


def _stat(pid: int) -> list[str]:
    """Fields of ``stat`` from the state on: the name before it may contain anything."""
    return (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def _started(pid: int) -> int:
    try:
        return int(_stat(pid)[19])
    except (OSError, IndexError):
        return 1 << 62


def family(pid: int) -> list[int]:
    """The process and its descendants.

    The kernel's own lists of children are read: looking at every process of the machine takes long enough to disturb the load.
    """
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            for thread in (_PROC / str(each) / "task").iterdir():
                with contextlib.suppress(OSError):
                    found += map(int, (thread / "children").read_text(encoding="ascii").split())
    return found


def processor_s(pid: int) -> float:
    """Processor time in seconds that a process has used, without its descendants; 0 if it has ended."""
    try:
        return _processor_s(_stat(pid))
    except (OSError, IndexError):
        return 0.0


def _processor_s(stat: list[str]) -> float:
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


def used(pid: int, *, pss: bool = True) -> Used | None:
    """What a process and its descendants use now; ``None`` if it has ended.

    Args:
        pid: The process.
        pss: Read the proportional memory too, which takes the kernel some milliseconds for a large process.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    rss = seen = 0
    cpu = 0.0
    share: int | None = 0 if pss else None
    files: int | None = 0
    for each in family(pid):
        try:
            stat = _stat(each)
            rss += int(stat[21]) * page
            cpu += _processor_s(stat)
        except (OSError, IndexError):
            continue
        seen += 1
        share = _plus(share, _pss(each)) if pss else None
        files = _plus(files, _files(each))
    if not seen or not (_PROC / str(pid)).exists():
        return None
    return Used(rss_bytes=rss, pss_bytes=share, cpu_s=cpu, open_files=files, processes=seen)


def _plus(total: int | None, more: int | None) -> int | None:
    return None if total is None or more is None else total + more


def _pss(pid: int) -> int | None:
    try:
        text = (_PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return None
    lines = [line.split() for line in text.splitlines() if line.startswith("Pss:")]
    return int(lines[0][1]) * 1024 if lines else None


def _files(pid: int) -> int | None:
    try:
        return sum(1 for _ in (_PROC / str(pid) / "fd").iterdir())
    except OSError:
        return None
