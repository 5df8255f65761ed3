"""The requests of Envoy's filter to the waker: HTTP/1.1 without bodies, one at a time on a connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from vllm_ci.domain.errors import VllmCiError


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question about a request of a user.

    Attributes:
        path: Of the request.
        request_id: Of the request.
        at: When it was asked (seconds since 1970).
    """

    path: str = ""
    request_id: str = ""
    at: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer: 200 lets the request go on.

    Attributes:
        status: Of HTTP, below 500: Envoy takes others for a failure.
        body: Why, for the user.
        retry_s: When the user may try again; 0: nothing is said.
    """

    status: int
    body: str = ""
    retry_s: int = 0

    def encoded(self) -> bytes:
        """As it is sent."""
        body = self.body.encode()
        retry = f"retry-after: {self.retry_s}\r\n" if self.retry_s else ""
        head = f"HTTP/1.1 {self.status} -\r\ncontent-type: text/plain\r\ncontent-length: {len(body)}\r\n{retry}\r\n"
        return head.encode() + body


async def connection(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Callable[[Asked], Awaitable[Answer]]
) -> None:
    """Answer what comes on a connection until it ends; a question whose asker goes away is dropped."""
    try:
        while await _one(reader, writer, answer):
            pass
    except (OSError, VllmCiError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass  # Envoy asks again
    finally:
        writer.close()


async def _one(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Callable[[Asked], Awaitable[Answer]]
) -> bool:
    """Answer one question; false when its asker went away."""
    asked = _asked(await reader.readuntil(b"\r\n\r\n"))
    work = asyncio.ensure_future(answer(asked))
    gone = asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if gone.done():  # nothing comes before an answer, so this is the end
            return False
        writer.write((await work).encoded())
        await writer.drain()
    finally:
        for each in (work, gone):
            each.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)
    return True


def _asked(head: bytes) -> Asked:
    line, *rest = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (row.partition(":") for row in rest if row)}
    words = line.split(" ")
    path = words[1].partition("?")[0] if len(words) > 1 else ""
    return Asked(path=path, request_id=headers.get("x-request-id", ""))
