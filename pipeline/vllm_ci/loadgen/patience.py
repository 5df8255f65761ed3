"""Repeats requests that failed for reasons that tell nothing about the answer: a reset of a kept connection, a rate limit."""

from __future__ import annotations

import asyncio
from typing import Protocol

from vllm_ci.loadgen.client import Client
from vllm_ci.loadgen.exchange import Exchange, FailureKind, Request

_STATUS = slice(9, 12)  # of `HTTP/1.1 429 ...`
_READS = 12  # a status line may come byte by byte
_ASKS_TO_WAIT = (b"429", b"503")


class Patience(Protocol):
    """Decides what is repeated, and is told of it."""

    def sent(self, method: str, path: str, body: bytes = b"") -> None:
        """A request is sent."""

    def reset(self, method: str, path: str) -> None:
        """A kept connection was closed before any byte of the answer; the request is sent again on a new one."""

    def pause_s(self, status: int, retry_after: str | None, attempt: int) -> float | None:
        """Seconds to wait before an answer's request is sent again; ``None`` if the answer stands."""


async def send(client: Client, request: Request, patience: Patience) -> Exchange:
    """Send a request; the exchange is the last one, with its own times."""
    patience.sent(request.method, request.path, request.body)
    attempt = 0
    while True:
        exchange = await client.send(request)
        if _was_reset(exchange):
            patience.reset(request.method, request.path)
            exchange = await client.send(request, fresh=True)
        pause_s = _pause_s(exchange, patience, attempt)
        if pause_s is None:
            return exchange
        await asyncio.sleep(pause_s)
        attempt += 1


def _was_reset(exchange: Exchange) -> bool:
    if not exchange.reused or exchange.data or exchange.stopped:
        return False
    # A close without an error leaves no failure of the transport.
    return exchange.closed or (exchange.failure is not None and exchange.failure.kind is FailureKind.DISCONNECTED)


def _pause_s(exchange: Exchange, patience: Patience, attempt: int) -> float | None:
    # Only the status is looked at: parsing a long answer here would delay the clocks of concurrent streams.
    if b"".join(exchange.data[:_READS])[_STATUS] not in _ASKS_TO_WAIT:
        return None
    return patience.pause_s(exchange.status, exchange.headers.get("retry-after"), attempt)
