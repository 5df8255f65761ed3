"""Send a workload to a server, in an open or a closed loop, and reduce the streams as they end."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm_ci.loadgen.client import Client
from vllm_ci.loadgen.exchange import Request, Timeouts
from vllm_ci.loadgen.stream import Stream
from vllm_ci.performance.sample import Samples, sample_of
from vllm_ci.performance.workload import Ask

_clock = time.perf_counter_ns
_JSON = {"content-type": "application/json"}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A model on a server.

    Attributes:
        url: Base URL.
        model: Served name.
        headers: Sent with every request, such as the API key.
        chat: Use chat completions; otherwise completions with the messages' text.
        fields: Fields of every request, such as ``ignore_eos``.
    """

    url: str
    model: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    chat: bool = True
    fields: Mapping[str, Any] = field(default_factory=dict)

    def request(self, ask: Ask, *, timeout_s: float) -> Request:
        """The request for one ask, as a stream with usage."""
        text = "\n".join(message["content"] for message in ask.messages)
        what: dict[str, Any] = {"messages": list(ask.messages)} if self.chat else {"prompt": text}
        body = {
            "model": self.model,
            **what,
            "max_tokens": ask.output_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.fields,
            **ask.fields,
        }
        return Request(
            method="POST",
            path="/v1/chat/completions" if self.chat else "/v1/completions",
            headers=_JSON,
            body=json.dumps(body).encode(),
            timeouts=Timeouts(first_byte_s=timeout_s, between_bytes_s=timeout_s, total_s=timeout_s),
        )


@dataclass(kw_only=True)
class Load:
    """A run of a workload on a target.

    Attributes:
        target: The server.
        asks: Requests to send.
        timeout_s: Timeout of a request.
        samples: The reduced requests; filled while the run lasts, so an interrupted run keeps what it measured.
        sent: Number of requests that were sent.
        watch: Called with the number of running requests at every start and end.
    """

    target: Target
    asks: Iterator[Ask]
    timeout_s: float = 300.0
    samples: Samples = field(default_factory=Samples)
    sent: int = 0
    watch: Callable[[int], None] = field(default=lambda _running: None)
    _running: int = 0
    _begun_ns: int = 0

    async def open_loop(self, times: Iterable[float]) -> None:
        """Send each request at its time, however long answers take. Returns when all have ended.

        Args:
            times: Seconds after the start, ascending.
        """
        async with Client(self.target.url, headers=self.target.headers) as client, asyncio.TaskGroup() as group:
            self._begun_ns = _clock()
            # Bodies are made one request ahead, while there is time.
            for due_s, ask in zip(times, self.asks, strict=False):
                request = self.target.request(ask, timeout_s=self.timeout_s)
                due_ns = self._begun_ns + int(due_s * 1e9)
                while (left_ns := due_ns - _clock()) > 0:
                    await asyncio.sleep(left_ns / 1e9)
                group.create_task(self._one(client.send, request, ask, due_ns))

    async def closed_loop(self, streams: int, duration_s: float) -> None:
        """Keep this many requests running; a new one starts when one ends, until ``duration_s`` have passed."""
        async with Client(self.target.url, headers=self.target.headers) as client, asyncio.TaskGroup() as group:
            self._begun_ns = _clock()
            until_ns = self._begun_ns + int(duration_s * 1e9)

            async def user() -> None:
                while (now_ns := _clock()) < until_ns:
                    ask = next(self.asks, None)
                    if ask is None:
                        return
                    await self._one(client.send, self.target.request(ask, timeout_s=self.timeout_s), ask, now_ns)

            for _ in range(streams):
                group.create_task(user())

    async def _one(self, send: Callable[[Request], Awaitable[Any]], request: Request, ask: Ask, due_ns: int) -> None:
        self.sent += 1
        self._running += 1
        self.watch(self._running)
        try:
            stream = Stream(exchange=await send(request))
        finally:
            self._running -= 1
            self.watch(self._running)
        sample = sample_of(stream, due_ns=due_ns, begun_ns=self._begun_ns, asked_tokens=ask.output_tokens)
        self.samples.add(sample, stream.metrics.inter_chunk_latency_ms)
