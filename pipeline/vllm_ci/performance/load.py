"""Send a workload to a server, in an open or a closed loop, and reduce the streams as they end."""

from __future__ import annotations

import asyncio
import json
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm_ci.loadgen.client import Client
from vllm_ci.loadgen.exchange import Exchange, FailureKind, Request, Timeouts
from vllm_ci.loadgen.stream import Stream
from vllm_ci.performance.sample import Sample, Samples, sample_of
from vllm_ci.performance.turns import Conversation, conversations, interleaved
from vllm_ci.performance.workload import Ask

_clock = time.perf_counter_ns
_JSON = {"content-type": "application/json"}
GONE_S = 3.0
_GONE_TRIES = 3
"""A server that takes no connection for this long, in at least this many tries, is gone; a restart of a proxy is shorter."""
_PAUSE_S = 0.1
"""Between tries to connect in a closed loop, which would spin otherwise."""
_UNCONNECTED = (FailureKind.CONNECT, FailureKind.CONNECT_TIMEOUT)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A model on a server.

    Attributes:
        url: Base URL.
        model: Served name.
        headers: Sent with every request, such as the API key.
        chat: Use chat completions; otherwise completions with the messages' text.
        fields: Fields of every request, such as ``ignore_eos``.
        spoken: Changes a body, given its path, to what the server wants to have.
    """

    url: str
    model: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    chat: bool = True
    fields: Mapping[str, Any] = field(default_factory=dict)
    spoken: Callable[[str, bytes], bytes] = field(default=lambda _path, body: body, repr=False)

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
        path = "/v1/chat/completions" if self.chat else "/v1/completions"
        return Request(
            method="POST",
            path=path,
            headers=_JSON,
            body=self.spoken(path, json.dumps(body).encode()),
            timeouts=Timeouts(first_byte_s=timeout_s, between_bytes_s=timeout_s, total_s=timeout_s),
        )


@dataclass(kw_only=True)
class Load:
    """A run of a workload on a target.

    A later turn of a conversation is sent after the answer to the earlier one has ended.

    Attributes:
        target: The server.
        asks: Requests to send.
        timeout_s: Timeout of a request.
        width: Conversations that go on at the same time in an open loop; their turns alternate.
        real_history: Later turns repeat the model's answers, not the synthetic ones.
        samples: The reduced requests; filled while the run lasts, so an interrupted run keeps what it measured.
        sent: Number of requests that were sent.
        delayed: Turns of an open loop that waited for the answer before them. They are due when it ended.
        gone: The server took no connection any more, so that the run ended early.
        stop: Set it to send nothing more; running requests end.
        watch: Called with the number of running requests after every start and end.
        ended: Called with every request that has ended, after it was added to ``samples``.
        gone_s: A server that takes no connection for this long is gone.
    """

    target: Target
    asks: Iterator[Ask]
    timeout_s: float = 300.0
    width: int = 1
    real_history: bool = False
    samples: Samples = field(default_factory=Samples)
    sent: int = 0
    delayed: int = 0
    gone: bool = False
    stop: bool = False
    watch: Callable[[int], None] = field(default=lambda _running: None)
    ended: Callable[[Sample, Stream], None] = field(default=lambda _sample, _stream: None)
    gone_s: float = GONE_S
    _running: int = 0
    _begun_ns: int = 0
    _refused: int = 0
    _refused_ns: int = 0

    async def open_loop(self, times: Iterable[float]) -> None:
        """Send each request at its time, however long answers take. Returns when all have ended, or the server is gone.

        Args:
            times: Seconds after the start, ascending.
        """
        order = interleaved(conversations(self.asks), self.width)
        last: weakref.WeakKeyDictionary[Conversation, asyncio.Task[None]] = weakref.WeakKeyDictionary()
        async with Client(self.target.url, headers=self.target.headers) as client, asyncio.TaskGroup() as group:
            self._begun_ns = _clock()
            # Bodies are made one request ahead, while there is time.
            for due_s, (conversation, turn) in zip(times, order, strict=False):
                ask = conversation.asks[turn]
                request = None if self.real_history and turn else self.target.request(ask, timeout_s=self.timeout_s)
                due_ns = self._begun_ns + int(due_s * 1e9)
                # Once at least: a client that is late still sends and reads between two requests.
                await asyncio.sleep(max(due_ns - _clock(), 0) / 1e9)
                while (left_ns := due_ns - _clock()) > 0:
                    await asyncio.sleep(left_ns / 1e9)
                if self.gone or self.stop:
                    return
                before = last.get(conversation) if turn else None
                task = group.create_task(self._turn(client, conversation, turn, due_ns, request, before))
                if turn + 1 < len(conversation.asks):
                    last[conversation] = task

    async def closed_loop(self, streams: int, duration_s: float) -> None:
        """Keep this many conversations running; a new one starts when one ends, until ``duration_s`` have passed."""
        found = conversations(self.asks)
        async with Client(self.target.url, headers=self.target.headers) as client, asyncio.TaskGroup() as group:
            self._begun_ns = _clock()
            until_ns = self._begun_ns + int(duration_s * 1e9)

            async def user() -> None:
                while _clock() < until_ns and (conversation := next(found, None)) is not None:
                    for turn in range(len(conversation.asks)):
                        if self.gone or self.stop or (now_ns := _clock()) >= until_ns:
                            return
                        await self._turn(client, conversation, turn, now_ns)
                        if self._refused:
                            await asyncio.sleep(_PAUSE_S)

            for _ in range(streams):
                group.create_task(user())

    async def _turn(
        self,
        client: Client,
        conversation: Conversation,
        turn: int,
        due_ns: int,
        request: Request | None = None,
        before: asyncio.Task[None] | None = None,
    ) -> None:
        """Send a turn, after the turn before it."""
        if before is not None and not before.done():
            self.delayed += 1
            await before
            due_ns = max(due_ns, _clock())
        ask = conversation.asks[turn]
        if request is None:
            known = conversation.with_answers(ask) if self.real_history else ask
            request = self.target.request(known, timeout_s=self.timeout_s)
        stream = await self._sent(client, request)
        sample = sample_of(stream, due_ns=due_ns, begun_ns=self._begun_ns, asked_tokens=ask.output_tokens)
        self.samples.add(sample, stream.metrics.inter_chunk_latency_ms)
        self.ended(sample, stream)
        self.watch(self._running)
        if self.real_history:
            conversation.answers.append(stream.text)

    async def _sent(self, client: Client, request: Request) -> Stream:
        self.sent += 1
        self._running += 1
        self.watch(self._running)
        try:
            exchange = await client.send(request)
        finally:
            self._running -= 1
        self._connected(exchange)
        return Stream(exchange=exchange)

    def _connected(self, exchange: Exchange) -> None:
        """Notice a server that takes no connection any more."""
        if exchange.failure is None or exchange.failure.kind not in _UNCONNECTED:
            self._refused = 0
            return
        self._refused += 1
        if self._refused == 1:
            self._refused_ns = exchange.begun_ns
        self.gone = self._refused >= _GONE_TRIES and _clock() - self._refused_ns >= self.gone_s * 1e9
