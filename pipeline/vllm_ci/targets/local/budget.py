"""Whether more replicas fit on this machine beside those that run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_ci.deploy.target import Serving
from vllm_ci.domain.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What there is to share.

    Attributes:
        memory_bytes: Main memory; 0: not known.
        devices: Number of GPUs.
    """

    memory_bytes: int
    devices: int


@dataclass(frozen=True, kw_only=True)
class Used:
    """What one running replica has.

    Attributes:
        revision: Name of its revision.
        memory_bytes: What it was said to need; 0: not known.
        devices: Indices of its GPUs.
    """

    revision: str
    memory_bytes: int
    devices: tuple[int, ...]


def machine() -> Machine:
    """This machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(memory_bytes=_limit(memory), devices=len(list(Path("/dev").glob("nvidia[0-9]*"))))


def _limit(memory: int) -> int:
    """The memory that this process's control group allows, if that is less (cgroup version 2)."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return memory
    return min(memory, int(text)) if text.isdigit() else memory


def assign(serving: Serving, revision: str, count: int, running: Sequence[Used], there: Machine) -> list[tuple[int, ...]]:
    """GPUs for each of ``count`` more replicas; all empty for servers without GPUs.

    Raises:
        UsageError: They do not fit; the message has the sum.
    """
    _check_memory(serving, revision, count, running, there)
    taken = {device for each in running for device in each.devices}
    free = [device for device in range(there.devices) if device not in taken]
    if serving.gpus * count > len(free):
        raise UsageError(
            f"{count} more replicas of {revision} do not fit on this machine",
            why=f"they need {count} x {serving.gpus} = {serving.gpus * count} GPUs; {len(taken)} of {there.devices} are in use"
            f"{_by_revision(running)}, so {len(free)} are free",
            remedy=_REMEDY,
        )
    return [tuple(free[index * serving.gpus : (index + 1) * serving.gpus]) for index in range(count)]


_REMEDY = "stop a revision that is not needed, or deploy fewer replicas"


def _check_memory(serving: Serving, revision: str, count: int, running: Sequence[Used], there: Machine) -> None:
    more, used = serving.memory_bytes * count, sum(each.memory_bytes for each in running)
    if not more or not there.memory_bytes or used + more <= there.memory_bytes:
        return
    raise UsageError(
        f"{count} more replicas of {revision} do not fit in the memory of this machine",
        why=f"they need {count} x {_gb(serving.memory_bytes)} = {_gb(more)}; {_gb(used)} are in use{_by_revision(running)}; "
        f"{_gb(used)} + {_gb(more)} = {_gb(used + more)} of {_gb(there.memory_bytes)}",
        remedy=_REMEDY,
    )


def _by_revision(running: Iterable[Used]) -> str:
    counts: dict[str, int] = {}
    for each in running:
        counts[each.revision] = counts.get(each.revision, 0) + 1
    return " (" + ", ".join(f"{count} of {name}" for name, count in sorted(counts.items())) + ")" if counts else ""


def _gb(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
