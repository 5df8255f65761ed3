"""What the load generator of ``vllm-ci bench`` itself can do: rate, concurrency and memory, against a server that costs little.

    python benchmarks/load.py                  # all three
    python benchmarks/load.py rate streams     # some of them
    python benchmarks/load.py memory --requests 20000 50000

Bounds, checked by the exit code: an open loop of 2,000 requests/s on one core with a send lag below 5 ms in the 99th
percentile; 1,000 concurrent streams that all succeed; memory that grows by less than 100 bytes a request. The client runs
pinned to one core and the server to another; the load of the machine is printed, because a core that others use has less to
give. A bound that is missed while others use the cores is inconclusive (exit 4).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))

from vllm_ci.loadgen.client import new_loop
from vllm_ci.performance import arrivals
from vllm_ci.performance.arrivals import Pattern
from vllm_ci.performance.figures import Figures, figures
from vllm_ci.performance.load import Load, Target
from vllm_ci.performance.workload import Ask
from vllm_ci.suites import machine

RATE, LAG_MS, STREAMS, BYTES_A_REQUEST = 2000.0, 5.0, 1000, 100
TOKENS = 8
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = (
    '{"id":"chatcmpl-8738c0921258651e","object":"chat.completion.chunk","created":1795224965,"model":"bench","choices":'
    '[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":%s}]}'
)
USAGE = (
    '{"id":"chatcmpl-8738c0921258651e","object":"chat.completion.chunk","created":1795224965,"model":"bench","choices":[],'
    '"usage":{"prompt_tokens":6,"total_tokens":%d,"completion_tokens":%d}}'
)
CORES = sorted(os.sched_getaffinity(0))


class Answering(asyncio.Protocol):
    """Answers every request with a stream: all of it at once, or an event at a time."""

    gap_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self.transport = cast("asyncio.Transport", transport)
        self.data = b""

    def data_received(self, data: bytes) -> None:
        """Requests come one after another, each with a length."""
        self.data += data
        head, separator, body = self.data.partition(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
        if separator and len(body) >= length:
            self.data = body[length:]
            self.answer(0)

    def answer(self, number: int) -> None:
        """Send the stream, from event ``number`` on."""
        events = _events()
        if not self.gap_s:
            self.transport.write(HEAD + b"".join(events))
            return
        self.transport.write(HEAD + events[0] if number == 0 else events[number])
        if number + 1 < len(events):
            asyncio.get_running_loop().call_later(self.gap_s, self.answer, number + 1)


def framed(data: str) -> bytes:
    """One event in one HTTP chunk."""
    return b"%x\r\ndata: %s\n\n\r\n" % (len(data) + 8, data.encode())


def _events() -> list[bytes]:
    tokens = [framed(CHUNK % ('"length"' if number == TOKENS else "null")) for number in range(1, TOKENS + 1)]
    return [*tokens, framed(USAGE % (6 + TOKENS, TOKENS)) + framed("[DONE]") + b"0\r\n\r\n"]


def _serve(told: Connection, gap_s: float) -> None:
    os.sched_setaffinity(0, {CORES[-1]})
    ready = _events()
    globals()["_events"] = lambda: ready  # made once: the server must cost less than the client
    Answering.gap_s = gap_s
    loop = new_loop()
    server = loop.run_until_complete(loop.create_server(Answering, "127.0.0.1", 0, backlog=4096))
    told.send(server.sockets[0].getsockname()[1])
    loop.run_forever()


@contextmanager
def server(*, gap_s: float = 0.0) -> Iterator[Target]:
    """The server in a process of its own."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_serve, args=(theirs, gap_s), daemon=True)
    process.start()
    try:
        yield Target(url=f"http://127.0.0.1:{ours.recv()}", model="bench")
    finally:
        process.terminate()
        process.join()


def asks() -> Iterator[Ask]:
    """Requests of about 1,000 tokens."""
    messages = ({"role": "user", "content": "word " * 1000},)
    return itertools.repeat(Ask(messages=messages, prompt_tokens=1000, output_tokens=TOKENS))


def run(load: Load, times: Iterator[float]) -> Figures:
    """Run an open loop, and print what it costs."""
    gc.collect()
    begun, cpu = time.perf_counter(), time.process_time()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(load.open_loop(times))
    spent = time.process_time() - cpu
    share = spent / (time.perf_counter() - begun)
    print(f"  {spent / max(len(load.samples), 1) * 1e6:.0f} us of CPU for a request, {share:.0%} of a core")
    return figures(load.samples)


def rate(seconds: float) -> list[str]:
    """Requests a second of an open loop on one core."""
    with server() as target:
        load = Load(target=target, asks=asks(), timeout_s=30)
        found = run(load, arrivals.times(Pattern.POISSON, RATE, seed=1, duration_s=seconds))
    assert found.lag_ms is not None
    lag = found.lag_ms.percentiles
    print(
        f"rate: {found.requests / seconds:.0f} requests/s of {RATE:.0f}, {sum(found.failed.values())} failed; send lag "
        f"p50 {lag[50.0]:.2f}, p99 {lag[99.0]:.2f} ms"
    )
    wrong = []
    if found.failed or found.requests < 0.95 * RATE * seconds:
        wrong.append(f"rate: {found.requests} requests in {seconds:g} s, {found.failed}")
    if lag[99.0] > LAG_MS:
        wrong.append(f"rate: send lag {lag[99.0]:.1f} ms in the 99th percentile, more than {LAG_MS:g}")
    return wrong


def streams() -> list[str]:
    """Streams at a time."""
    most = 0

    def watch(running: int) -> None:
        nonlocal most
        most = max(most, running)

    # Each stream takes 3.2 s, and all of them start within 2 s.
    with server(gap_s=0.4) as target:
        load = Load(target=target, asks=asks(), timeout_s=60, watch=watch)
        found = run(load, (number / STREAMS for number in range(2 * STREAMS)))
    assert found.lag_ms is not None
    print(
        f"streams: {most} at a time, {found.requests} of {2 * STREAMS} ended, {sum(found.failed.values())} failed; send lag "
        f"p99 {found.lag_ms.percentiles[99.0]:.2f} ms"
    )
    return [] if most >= STREAMS and found.requests == 2 * STREAMS else [f"streams: {most} at a time, {found.failed}"]


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory(fewer: int, more: int) -> list[str]:
    """Memory after some and after many requests of one run."""
    seen: dict[int, int] = {}
    with server() as target:
        load = Load(target=target, asks=itertools.islice(asks(), more), timeout_s=30)

        def watch(_running: int) -> None:
            if (ended := len(load.samples)) in (fewer, more) and ended not in seen:
                gc.collect()
                seen[ended] = _rss()

        load.watch = watch
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(load.closed_loop(32, 3600.0))
    each = (seen[more] - seen[fewer]) / (more - fewer)
    print(
        f"memory: {seen[fewer] / 2**20:.1f} MiB after {fewer} requests, {seen[more] / 2**20:.1f} MiB after {more}: "
        f"{each:.0f} bytes a request"
    )
    return [] if each < BYTES_A_REQUEST else [f"memory: {each:.0f} bytes a request, more than {BYTES_A_REQUEST}"]


def main() -> int:
    """Run the parts that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="rate, streams or memory; all by default")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the part rate")
    parser.add_argument("--requests", type=int, nargs=2, default=(50_000, 200_000), help="of the part memory")
    given = parser.parse_args()
    parts = given.parts or ["rate", "streams", "memory"]
    if unknown := set(parts) - {"rate", "streams", "memory"}:
        parser.error(f"no part {', '.join(sorted(unknown))}")
    print(f"{len(CORES)} cores, load {os.getloadavg()[0]:.1f}")
    os.sched_setaffinity(0, {CORES[0]})
    wrong: list[str] = []
    with machine.Watch() as watch:
        wrong += rate(given.seconds) if "rate" in parts else []
        wrong += streams() if "streams" in parts else []
        wrong += memory(*given.requests) if "memory" in parts else []
    print("\n".join(wrong) or "within bounds")
    if wrong and watch.seen.starved:
        print(f"inconclusive: {watch.seen.starved}")
        return 4
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
