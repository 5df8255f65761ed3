"""What a server uses: read from a real process that leaks, and the slope of what grows."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_ci.performance import processes
from vllm_ci.performance.measuring import Setting, measure
from vllm_ci.performance.resources import Watch, gauges
from vllm_ci.performance.server import served
from vllm_ci.performance.trend import LEAST, trend
from vllm_ci.performance.workload import Lengths, Workload

ROOT = Path(__file__).parents[3]
LEAKING = """
import os, subprocess, sys, time
from doubles.running import running
from doubles.server import Double

kept = []

class Leaking(Double):
    def metrics(self):
        return super().metrics() + 'vllm:kv_cache_usage_perc{engine="0"} 0.25\\n'

    async def completed(self, *given):
        kept.append(b"x" * 200_000)
        kept.append(open(os.devnull))
        return await super().completed(*given)

child = subprocess.Popen([sys.executable, "-c", "import time; x = bytearray(30_000_000); time.sleep(100)"])
with running(Leaking) as (url, _):
    print(url, child.pid, flush=True)
    time.sleep(100)
"""
SMALL = Workload(
    name="small",
    version=1,
    source="a test",
    prompt=Lengths(median=8, mean=9, largest=16),
    output=Lengths(median=2, mean=2, largest=2),
)


@pytest.fixture
def leaking() -> Iterator[tuple[str, int]]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'pipeline'}:{ROOT / 'tests'}"}
    with subprocess.Popen([sys.executable, "-c", LEAKING], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        url, child = process.stdout.readline().split()
        yield url, process.pid
        os.kill(int(child), 9)
        process.kill()


@pytest.mark.slow
def test_a_server_process_is_found_by_its_port_with_its_children(leaking: tuple[str, int]) -> None:
    url, pid = leaking
    assert processes.listening(url) == pid
    time.sleep(0.5)
    found = processes.used(pid)
    assert found is not None
    assert found.processes == 2
    assert found.rss_bytes > 40_000_000
    assert found.pss_bytes is not None
    assert 30_000_000 < found.pss_bytes <= found.rss_bytes
    assert found.open_files
    assert found.cpu_s > 0


def test_servers_elsewhere_and_ports_without_a_server_have_no_process() -> None:
    assert processes.listening("http://192.0.2.1:80") is None
    assert processes.listening("http://127.0.0.1:9") is None
    assert processes.used(1 << 22) is None


@pytest.mark.slow
def test_memory_and_files_that_grow_under_load_are_seen(leaking: tuple[str, int]) -> None:
    url, pid = leaking
    server = served(url)
    with Watch(server, every_s=0.2) as watch:
        found = measure(server, Setting(workload=SMALL, rate=30, duration_s=4, warm_up_s=0))
    used = watch.found()
    assert used.pid == pid
    assert used.peak["open_files"] - used.first["open_files"] > 50
    for name in ("open_files", "rss_bytes"):
        slope = used.growth[name]
        assert slope.grows, name
    assert 15 < used.growth["open_files"].per_hour / 3600 < 45, "30 requests a second leave 30 files a second open"
    assert used.peak["kv_cache_share"] == 0.25
    assert used.cpu_s
    document = found.document()["resources"]
    assert document["pid"] == pid
    assert document["cpu_s_per_1000_tokens"] > 0


def test_gauges_of_all_engines_are_added_and_other_lines_are_not_read() -> None:
    text = 'broken line\nvllm:num_requests_waiting{engine="0"} 2\nvllm:num_requests_waiting{engine="1"} 3\n'
    assert gauges(text) == {"waiting": 5.0}


@given(st.floats(-1e3, 1e3), st.floats(-1e6, 1e6))
def test_the_slope_of_a_line_is_its_slope(per_hour: float, begin: float) -> None:
    found = trend([(second, begin + per_hour * second / 3600) for second in range(600)])
    assert found is not None
    assert found.per_hour == pytest.approx(per_hour, abs=1e-3)


def test_noise_does_not_grow_and_one_wild_value_changes_nothing() -> None:
    rng = random.Random(1)
    grew = 0
    for _ in range(200):
        points = [(float(second), rng.gauss(100, 5)) for second in range(300)]
        points[7] = (7.0, 1e9)
        found = trend(points)
        assert found is not None
        assert abs(found.per_hour) < 100
        grew += found.grows
    assert grew <= 14, "2.5 % of the intervals are above 0"


def test_a_short_run_has_no_trend() -> None:
    assert trend([(second, 1.0) for second in range(LEAST - 1)]) is None
    assert trend([(1.0, 1.0)] * 100) is None
