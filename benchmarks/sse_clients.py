"""The clients compared: each reads the same streams to their end, parses every event as JSON and notes when it had it.

One runs in a process of its own (``python benchmarks/sse_clients.py NAME URL STREAMS``) and prints one JSON object. CPU time is
that of the whole process, user and system, from before the first request until every event is parsed; imports are not in it.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pipeline"))

PATH = "/v1/chat/completions"
BODY: dict[str, Any] = {
    "model": "bench",
    "messages": [{"role": "user", "content": "hello"}],
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}
Arrivals = list[tuple[int, int]]
"""(clock at arrival, clock at sending) of every event that carries one."""
Found = Callable[[], Arrivals]
"""Gives the arrivals; called when the clocks have stopped, since looking them up is no part of a client's work."""


async def ours(url: str, streams: int) -> Found:
    """The recorder: reads are recorded while they come and parsed afterwards."""
    from vllm_ci.loadgen.client import Client
    from vllm_ci.loadgen.exchange import Request
    from vllm_ci.loadgen.stream import Stream

    async with Client(url) as client:
        exchanges = await client.gather([Request.post(PATH, BODY)] * streams)
    found = [Stream(exchange=exchange) for exchange in exchanges]
    for stream in found:
        assert stream.complete, stream.describe()
        assert stream.metrics.tpot_ms
    pairs = ((chunk.at_ns, chunk.body.get("sent_ns")) for stream in found for chunk in stream.chunks)
    return lambda: [(arrived, sent) for arrived, sent in pairs if isinstance(sent, int)]


async def by_aiohttp(url: str, streams: int) -> Found:
    """Line by line from aiohttp's stream reader."""
    import aiohttp

    arrivals: Arrivals = []

    async def one(session: aiohttp.ClientSession) -> None:
        async with session.post(url + PATH, json=BODY) as response:
            async for line in response.content:
                now = time.perf_counter_ns()
                if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
                    _keep(arrivals, now, json.loads(line[6:]))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(one(session) for _ in range(streams)))
    return lambda: arrivals


async def by_bench_serve(url: str, streams: int) -> Found:
    """The way of ``vllm bench serve``: whatever bytes aiohttp has, a text buffer cut at blank lines, a clock per message."""
    import aiohttp

    arrivals: Arrivals = []

    async def one(session: aiohttp.ClientSession) -> None:
        latencies: list[float] = []
        text, buffer = "", ""
        before = time.perf_counter()
        async with session.post(url + PATH, json=BODY) as response:
            async for piece in response.content.iter_any():
                buffer += piece.decode()
                while "\n\n" in buffer:
                    message, buffer = buffer.split("\n\n", 1)
                    message = message.strip()
                    if not message or message.startswith(":") or message == "data: [DONE]":
                        continue
                    now = time.perf_counter_ns()
                    chunk = json.loads(message.removeprefix("data: "))
                    if choices := chunk["choices"]:
                        latencies.append(now / 1e9 - before)
                        before = now / 1e9
                        text += choices[0]["delta"].get("content") or ""
                    _keep(arrivals, now, chunk)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(one(session) for _ in range(streams)))
    return lambda: arrivals


async def by_httpx(url: str, streams: int) -> Found:
    """Line by line from httpx."""
    import httpx

    arrivals: Arrivals = []

    async def one(client: httpx.AsyncClient) -> None:
        async with client.stream("POST", url + PATH, json=BODY) as response:
            async for line in response.aiter_lines():
                now = time.perf_counter_ns()
                if line.startswith("data: ") and line != "data: [DONE]":
                    _keep(arrivals, now, json.loads(line[6:]))

    async with httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None), trust_env=False) as client:
        await asyncio.gather(*(one(client) for _ in range(streams)))
    return lambda: arrivals


async def by_openai(url: str, streams: int) -> Found:
    """Chunk objects from the official SDK."""
    import openai

    arrivals: Arrivals = []

    async def one(client: openai.AsyncOpenAI) -> None:
        async for chunk in await client.chat.completions.create(**BODY):
            now = time.perf_counter_ns()
            _keep(arrivals, now, chunk.model_extra or {})

    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=None) as client:
        await asyncio.gather(*(one(client) for _ in range(streams)))
    return lambda: arrivals


def _keep(arrivals: Arrivals, now: int, chunk: dict[str, Any]) -> None:
    if sent := chunk.get("sent_ns"):
        arrivals.append((now, sent))


CLIENTS: dict[str, Callable[[str, int], Awaitable[Found]]] = {
    "vllm-ci": ours,
    "aiohttp": by_aiohttp,
    "vllm bench serve": by_bench_serve,
    "httpx": by_httpx,
    "openai": by_openai,
}


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(name: str, url: str, streams: int) -> dict[str, Any]:
    """One run of one client."""
    from vllm_ci.loadgen.metrics import percentile

    async def timed() -> tuple[Found, float, float]:
        cpu, begun = _cpu_s(), time.perf_counter()
        found = await CLIENTS[name](url, streams)
        return found, _cpu_s() - cpu, time.perf_counter() - begun

    __import__({"vllm-ci": "vllm_ci.loadgen.stream", "vllm bench serve": "aiohttp"}.get(name, name))
    found, cpu_s, seconds = uvloop.run(timed())
    arrivals = found()
    lags_us = [(arrived - sent) / 1e3 for arrived, sent in arrivals]
    return {
        "client": name,
        "events": len(arrivals),
        "cpu_us_per_event": cpu_s * 1e6 / len(arrivals),
        "lag_p50_us": percentile(lags_us, 50),
        "lag_p99_us": percentile(lags_us, 99),
        "events_per_s": len(arrivals) / seconds,
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
