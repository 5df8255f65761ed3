"""Memory and cores that are free on this machine for one more server, as a JSON object. Standard library only.

Usage: ``machine.py FOLDER`` writes ``FOLDER/machine.json``.

Total memory is misleading where other programs run, and in containers. The result is the minimum of the kernel's
``MemAvailable``, the memory left in the control groups of this process (versions 1 and 2, with all parent groups), and the
memory of the NUMA node of its processors.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_UNLIMITED = 1 << 60  # without a limit, version 1 shows a number near 2**63


def facts(root: Path = Path("/"), allowed: frozenset[int] | None = None) -> dict[str, int]:
    """``memory_bytes`` and ``cores`` that a new process can get.

    Args:
        root: Directory that contains ``proc`` and ``sys``.
        allowed: Processors that this process may run on; by default those of its affinity.
    """
    processors = allowed if allowed is not None else frozenset(_affinity())
    memory = [_available(root), *_left_in_groups(root), *_left_in_node(root, processors)]
    found = [value for value in memory if value is not None]
    return {"memory_bytes": max(0, min(found, default=0)), "cores": _cores(root, processors)}


def _affinity() -> set[int]:
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _table(text: str, *, skip: int = 0) -> dict[str, int]:
    """Parse lines ``NAME: NUMBER kB`` into bytes by name; skips ``skip`` words before the name."""
    found = {}
    for line in text.splitlines():
        words = line.split()[skip:]
        if len(words) >= 2 and words[1].isdigit():
            found[words[0].rstrip(":")] = int(words[1]) * (1024 if words[2:] == ["kB"] else 1)
    return found


def _available(root: Path) -> int | None:
    return _table(_text(root / "proc/meminfo")).get("MemAvailable")


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups of this process that may limit ``controller``, innermost first."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        unified = number == "0" and not controllers
        if not unified and controller not in controllers.split(","):
            continue
        names = ("", "unified") if unified else (controllers, controller)
        for top in (f"sys/fs/cgroup/{name}".rstrip("/") for name in names):
            # A path with `..` is outside of this container's view; its own group is at the top then.
            inside = path.strip("/") if ".." not in path else ""
            folder = root / top / inside
            while folder.is_relative_to(root / top):
                yield folder
                folder = folder.parent


def _left_in_groups(root: Path) -> Iterator[int]:
    """Limit minus use of each group; reclaimable file cache counts as free."""
    for folder in _groups(root, "memory"):
        for limit, use, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            most, used = _number(folder / limit), _number(folder / use)
            if most is not None and used is not None and most < _UNLIMITED:
                yield max(0, most - used + min(used, _table(_text(folder / "memory.stat")).get(cache, 0)))


def _left_in_node(root: Path, processors: frozenset[int]) -> Iterator[int]:
    """Free memory of the node of the first processor, which vLLM binds a worker's memory to."""
    nodes = root / "sys/devices/system/node"
    if len(list(nodes.glob("node[0-9]*"))) < 2 or not processors:
        return
    for node in nodes.glob(f"node[0-9]*/cpu{min(processors)}"):
        found = _table(_text(node.parent / "meminfo"), skip=2)
        yield sum(found.get(name, 0) for name in ("MemFree", "Active(file)", "Inactive(file)", "SReclaimable"))


def _cores(root: Path, processors: frozenset[int]) -> int:
    """Physical cores among the processors, limited by CPU quotas; at least 1."""
    topology = root / "sys/devices/system/cpu"
    siblings = {_text(topology / f"cpu{number}/topology/thread_siblings_list").strip() or str(number) for number in processors}
    return max(1, min([len(siblings), *(int(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    for folder in _groups(root, "cpu"):
        quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
        if not quota:
            quota, period = _text(folder / "cpu.cfs_quota_us").strip(), _text(folder / "cpu.cfs_period_us").strip()
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)


if __name__ == "__main__":
    Path(sys.argv[1], "machine.json").write_text(json.dumps(facts()) + "\n", encoding="utf-8")
