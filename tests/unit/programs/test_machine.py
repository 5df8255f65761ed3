"""What is free on machines of many kinds, laid out as the kernel shows them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_ci.programs import machine

GIB = 1 << 30


def kernel(root: Path, files: dict[str, str]) -> Path:
    """A machine with 24 GiB, of which 20 are free, and two cores with two threads each."""
    lines = f"MemTotal: {24 << 20} kB\nMemFree: {2 << 20} kB\nMemAvailable: {20 << 20} kB\n"
    standard = {"proc/meminfo": lines, "proc/self/cgroup": "0::/\n"}
    standard |= {f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list": f"{n % 2},{n % 2 + 2}\n" for n in range(4)}
    for name, text in (standard | files).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def stat(inactive: int, name: str = "inactive_file") -> str:
    return f"anon 1\n{name} {inactive}\nactive_file 7\n"


def node(number: int, free: int) -> dict[str, str]:
    folder = f"sys/devices/system/node/node{number}"
    keys = {"MemTotal": 12 * GIB, "MemFree": free, "Active(file)": GIB, "Inactive(file)": 0, "SReclaimable": 0}
    lines = [f"Node {number} {key}: {value >> 10} kB\n" for key, value in keys.items()]
    return {f"{folder}/meminfo": "".join(lines), f"{folder}/cpu{2 * number}/x": "", f"{folder}/cpu{2 * number + 1}/x": ""}


V2 = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "gib"),
    [
        ({}, 20),
        ({f"{V2}/memory.max": "max\n", f"{V2}/memory.current": f"{GIB}\n"}, 20),
        ({f"{V2}/memory.max": f"{8 * GIB}\n", f"{V2}/memory.current": f"{3 * GIB}\n"}, 5),
        # The kernel takes the cache of files back before it runs out.
        (
            {f"{V2}/memory.max": f"{8 * GIB}", f"{V2}/memory.current": f"{7 * GIB}", f"{V2}/memory.stat": stat(4 * GIB)},
            5,
        ),
        ({f"{V2}/memory.max": f"{2 * GIB}", f"{V2}/memory.current": f"{3 * GIB}"}, 0),
        # A group above has the limit.
        (
            {
                "proc/self/cgroup": "0::/pod/container\n",
                f"{V2}/pod/container/memory.max": "max\n",
                f"{V2}/pod/container/memory.current": "5\n",
                f"{V2}/pod/memory.max": f"{6 * GIB}\n",
                f"{V2}/pod/memory.current": f"{2 * GIB}\n",
            },
            4,
        ),
        # In a container the path may be one of the host's, and the own group is the top.
        (
            {
                "proc/self/cgroup": "0::/../../x\n",
                f"{V2}/memory.max": f"{4 * GIB}",
                f"{V2}/memory.current": f"{GIB}",
            },
            3,
        ),
        # Version 1.
        (
            {
                "proc/self/cgroup": "7:cpu,cpuacct:/\n4:memory:/docker/abc\n",
                f"{V2}/memory/memory.limit_in_bytes": f"{10 * GIB}\n",
                f"{V2}/memory/memory.usage_in_bytes": f"{6 * GIB}\n",
                f"{V2}/memory/memory.stat": stat(2 * GIB, "total_inactive_file"),
            },
            6,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/\n",
                f"{V2}/memory/memory.limit_in_bytes": "9223372036854771712\n",
                f"{V2}/memory/memory.usage_in_bytes": f"{6 * GIB}\n",
            },
            20,
        ),
        # Both versions at once.
        (
            {
                "proc/self/cgroup": "4:memory:/\n0::/\n",
                f"{V2}/memory/memory.limit_in_bytes": f"{10 * GIB}\n",
                f"{V2}/memory/memory.usage_in_bytes": f"{1 * GIB}\n",
            },
            9,
        ),
        # vLLM binds a worker to the memory of the node that its processors belong to.
        (node(0, 7 * GIB) | node(1, GIB), 8),
        (node(0, 7 * GIB), 20),
    ],
)
def test_memory_that_a_new_process_can_get(tmp_path: Path, files: dict[str, str], gib: int) -> None:
    found = machine.facts(kernel(tmp_path, files), frozenset(range(4)))
    assert found["memory_bytes"] == gib * GIB


@pytest.mark.parametrize(
    ("files", "allowed", "cores"),
    [
        ({}, {0, 1, 2, 3}, 2),
        ({}, {0, 2}, 1),
        ({}, {0}, 1),
        ({f"{V2}/cpu.max": "max 100000\n"}, {0, 1, 2, 3}, 2),
        ({f"{V2}/cpu.max": "150000 100000\n"}, {0, 1, 2, 3}, 1),
        ({f"{V2}/cpu.max": "50000 100000\n"}, {0, 1, 2, 3}, 1),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/a\n",
                f"{V2}/cpu,cpuacct/a/cpu.cfs_quota_us": "100000\n",
                f"{V2}/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
            },
            {0, 1, 2, 3},
            1,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu:/\n",
                f"{V2}/cpu/cpu.cfs_quota_us": "-1\n",
                f"{V2}/cpu/cpu.cfs_period_us": "100000\n",
            },
            {0, 1, 2, 3},
            2,
        ),
    ],
)
def test_cores_that_it_may_use(tmp_path: Path, files: dict[str, str], allowed: set[int], cores: int) -> None:
    assert machine.facts(kernel(tmp_path, files), frozenset(allowed))["cores"] == cores


def test_a_machine_that_shows_nothing_has_one_core_and_no_memory(tmp_path: Path) -> None:
    assert machine.facts(tmp_path, frozenset()) == {"memory_bytes": 0, "cores": 1}


def test_the_program_writes_what_it_finds_on_this_machine(tmp_path: Path) -> None:
    """As it runs on an engine: by path, with the standard library."""
    subprocess.run([sys.executable, "-I", "-S", machine.__file__, str(tmp_path)], check=True)
    found = json.loads((tmp_path / "machine.json").read_text())
    assert found["cores"] >= 1
    assert 0 < found["memory_bytes"] < 1 << 50
