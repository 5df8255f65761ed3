"""Repeats requests that failed for reasons that tell nothing about the answer: a reset of a kept connection, a rate limit."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Protocol

from vllm_ci.loadgen.client import Client
from vllm_ci.loadgen.exchange import Exchange, FailureKind, Request

_STATUS = slice(9, 12)  # of `HTTP/1.1 429 ...`
_READS = 12  # a status line may come byte by byte
_ASKS_TO_WAIT = (b"429", b"503")


class Refusals(Protocol):
    """The refusals of one request for being too many."""

    def pause_s(self, status: int, retry_after: str | None) -> float | None:
        """Seconds to wait before the request is sent again; ``None`` if the answer stands. It may take its time."""


class Patience(Protocol):
    """Decides what is repeated, and is told of it."""

    def spoken(self, path: str, body: bytes) -> bytes:
        """A body as the server wants to have it."""

    def sent(self, method: str, path: str, body: bytes = b"") -> Refusals:
        """A request is sent; returns what decides whether it is sent again."""

    def reset(self, method: str, path: str) -> None:
        """A kept connection was closed before any byte of the answer; the request is sent again on a new one."""


async def send(client: Client, request: Request, patience: Patience) -> Exchange:
    """Send a request; the exchange is the last one, with its own times."""
    if (body := patience.spoken(request.path, request.body)) != request.body:
        request = replace(request, body=body)
    refusals = patience.sent(request.method, request.path, request.body)
    while True:
        exchange = await client.send(request)
        if _was_reset(exchange):
            patience.reset(request.method, request.path)
            exchange = await client.send(request, fresh=True)
        pause_s = await _pause_s(exchange, refusals)
        if pause_s is None:
            return exchange
        await asyncio.sleep(pause_s)


def _was_reset(exchange: Exchange) -> bool:
    if not exchange.reused or exchange.data or exchange.stopped:
        return False
    # A close without an error leaves no failure of the transport.
    return exchange.closed or (exchange.failure is not None and exchange.failure.kind is FailureKind.DISCONNECTED)


async def _pause_s(exchange: Exchange, refusals: Refusals) -> float | None:
    # Only the status is looked at: parsing a long answer here would delay the clocks of concurrent streams.
    if b"".join(exchange.data[:_READS])[_STATUS] not in _ASKS_TO_WAIT:
        return None
    # In a thread, because it may send a request of its own to find out what is refused.
    return await asyncio.to_thread(refusals.pause_s, exchange.status, exchange.headers.get("retry-after"))
