"""What the gateway costs: many streams to one server, directly and through Envoy, on this machine.

Usage: ``PYTHONPATH=pipeline:tests python benchmarks/gateway.py [STREAMS] [TOKENS] [INTERVAL_S]``. Prints a JSON object for each
way: streams that were whole, seconds, processor seconds of Envoy and its memory, and milliseconds of single requests. The
server is a stand-in that streams numbered events; server, client and Envoy share the processors.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import anyio

from standin.deployment import Place, revision
from standin.streams import Stream, many, stream
from vllm_ci.deploy.target import Route
from vllm_ci.targets.local.state import Store

TICK = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Processor seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def quantile(values: list[float], share: float) -> float:
    """Nearest rank; -1 without values."""
    return round(sorted(values)[min(len(values) - 1, int(share * len(values)))], 2) if values else -1.0


async def measured(way: str, address: str, envoy: int, streams: int, tokens: int, interval_s: float) -> None:
    """Open all streams at once, then send single requests one after another."""
    found: list[Stream] = []

    async def one(client: aiohttp.ClientSession) -> None:
        found.append(await stream(client, address, tokens=tokens, interval_s=interval_s))

    begun, used = time.monotonic(), cpu_s(envoy)
    async with many() as client, anyio.create_task_group() as group:
        for _ in range(streams):
            group.start_soon(one, client)
        await anyio.sleep(tokens * interval_s / 2)
        memory = memory_mb(envoy)
    seconds, used = time.monotonic() - begun, cpu_s(envoy) - used
    firsts = []
    async with many() as client:
        for _ in range(200):
            asked = time.perf_counter()
            await stream(client, address, tokens=1, interval_s=0)
            firsts.append((time.perf_counter() - asked) * 1000)
    result = {
        "way": way,
        "streams": streams,
        "whole": sum(each.whole(tokens) for each in found),
        "seconds": round(seconds, 2),
        "events_per_s": round(streams * tokens / seconds),
        "envoy_cpu_s": round(used, 2),
        "envoy_memory_mb": round(memory, 1),
        "one_request_p50_ms": quantile(firsts, 0.5),
        "one_request_p99_ms": quantile(firsts, 0.99),
    }
    print(json.dumps(result))


async def main(streams: int = 1000, tokens: int = 30, interval_s: float = 1.0) -> None:
    """Both ways, twice."""
    with tempfile.TemporaryDirectory() as folder:
        target = Place(folder=Path(folder)).target()
        try:
            await target.start(revision("a"), 1)
            await target.route(Route(weights={revision("a").name: 100}))
            current, envoy = await target.current(), Store(folder=target.folder).load().envoy
            assert envoy is not None
            for way, address in (("direct", current.replicas[0].url), ("gateway", current.address)) * 2:
                await measured(way, address, envoy.pid, streams, tokens, interval_s)
        finally:
            await target.close()


if __name__ == "__main__":
    anyio.run(main, *[kind(each) for kind, each in zip((int, int, float), sys.argv[1:], strict=False)])
