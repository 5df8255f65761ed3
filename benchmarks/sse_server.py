"""A server that streams at a fixed rate and writes into every event when it sent it.

Like an inference engine it works in steps: in each, every stream gets one event (one HTTP chunk, one write). An event has the
size and the fields of a chat chunk of vLLM; ``sent_ns`` is ``time.perf_counter_ns()`` just before the write, which on Linux is
the same clock in every process of a machine. It runs on asyncio's own loop, which hands a write to the socket at once; uvloop
would keep it until the end of the step, and the lag of every client would have the server's in it.

    python benchmarks/sse_server.py --streams 64 --rate 25600 --events 1600     # prints its port, serves until killed
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import cast

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
CHUNK = (
    '{"id":"chatcmpl-8738c0921258651e","object":"chat.completion.chunk","created":1795224965,"model":"bench","sent_ns":%d,'
    '"choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":%s}],'
    '"usage":{"prompt_tokens":6,"total_tokens":%d,"completion_tokens":%d}}'
)
USAGE = (
    '{"id":"chatcmpl-8738c0921258651e","object":"chat.completion.chunk","created":1795224965,"model":"bench","choices":[],'
    '"usage":{"prompt_tokens":6,"total_tokens":%d,"completion_tokens":%d}}'
)


def framed(data: str) -> bytes:
    """One event in one HTTP chunk."""
    return b"%x\r\ndata: %s\n\n\r\n" % (len(data) + 8, data.encode())


class Streaming(asyncio.Protocol):
    """One connection; a request makes it wait for the others, then all stream together."""

    def __init__(self, waiting: list[Streaming], begin: asyncio.Event, streams: int) -> None:
        self._waiting, self._begin, self._streams = waiting, begin, streams
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Requests are not looked at beyond their end; bodies of the clients compared here come with a length."""
        self._head += data
        head, separator, body = self._head.partition(b"\r\n\r\n")
        lengths = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
        if not separator or len(body) < sum(lengths):
            return
        self._head = b""
        self.transport.write(HEAD)
        self._waiting.append(self)
        if len(self._waiting) >= self._streams:
            self._begin.set()

    def send(self, number: int, last: int) -> None:
        """Event ``number`` of ``last``."""
        reason = '"length"' if number == last else "null"
        self.transport.write(framed(CHUNK % (time.perf_counter_ns(), reason, 6 + number, number)))

    def end(self, last: int) -> None:
        """Usage, [DONE] and the last HTTP chunk."""
        self.transport.write(framed(USAGE % (6 + last, last)) + framed("[DONE]") + b"0\r\n\r\n")


async def stream(connections: list[Streaming], *, events: int, interval_s: float) -> None:
    """Steps at a fixed rate; a step that is late is not skipped."""
    begun = time.perf_counter()
    for number in range(1, events + 1):
        delay = begun + number * interval_s - time.perf_counter()
        if delay > 0:
            await asyncio.sleep(delay)
        for connection in connections:
            connection.send(number, events)
    for connection in connections:
        connection.end(events)


async def main(streams: int, rate: float, events: int) -> None:
    """Serve rounds of ``streams`` concurrent streams."""
    waiting: list[Streaming] = []
    begin = asyncio.Event()
    server = await asyncio.get_running_loop().create_server(lambda: Streaming(waiting, begin, streams), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    while True:
        await begin.wait()
        begin.clear()
        connections = list(waiting)
        waiting.clear()
        await stream(connections, events=events, interval_s=streams / rate)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--rate", type=float, default=25_600, help="events per second of all streams together")
    parser.add_argument("--events", type=int, default=1600, help="events of each stream")
    given = parser.parse_args()
    asyncio.run(main(given.streams, given.rate, given.events))
