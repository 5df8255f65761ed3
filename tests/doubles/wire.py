"""HTTP/1.1 for the double: requests in, answers and streams out; what a server must refuse before any route is asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import unquote

import httptools

DOUBLE = ("x-vllm-ci-double", "this is a test double, not vLLM")
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed", 413: "Too Large"}
_LARGEST_HEAD = 65_536
_LARGEST_BODY = 64_000_000


@dataclass(kw_only=True)
class Request:
    """A request as it came.

    Attributes:
        method: ``GET`` ...
        target: As it stood on the wire.
        headers: Names in lower case.
        body: Whole.
    """

    method: str = ""
    target: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def path(self) -> str:
        """The target's path, decoded once."""
        return unquote(self.target.partition("?")[0])


@dataclass(frozen=True, kw_only=True)
class Response:
    """An answer in one piece."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
    return Response(status=status, body=body, headers={"content-type": "application/json", **(headers or {})})


class Connection(asyncio.Protocol):
    """One connection: requests are answered one after the other; when the client goes, what it asked for is cancelled."""

    def __init__(
        self,
        answer: Callable[[Request, Connection], Awaitable[None]],
        *,
        largest_head: int = _LARGEST_HEAD,
        open_bodies: set[int] | None = None,
    ) -> None:
        self._answer = answer
        self._largest_head = largest_head
        self._open_bodies = open_bodies if open_bodies is not None else set()
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: asyncio.Queue[Request] = asyncio.Queue()
        self._request = Request()
        self._parts: list[bytes] = []
        self._read = 0
        self._head = True
        self._room = asyncio.Event()
        self._room.set()
        self._transport: asyncio.Transport
        self._task: asyncio.Task[None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's own signature
        self._open_bodies.discard(id(self))
        self._room.set()
        self._task.cancel()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def data_received(self, data: bytes) -> None:
        end = data.find(b"\r\n\r\n")  # the body may come in the same piece as the end of the head
        head = self._read + (len(data) if end < 0 else end)
        self._read += len(data)
        if self._head and head > self._largest_head:
            self._refuse(431, "the headers are too large")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._transport.close()
        except httptools.HttpParserError:
            self._refuse(400, "this is no HTTP")

    def on_message_begin(self) -> None:
        self._request = Request()
        self._parts = []
        self._head, self._read = True, 0

    def on_url(self, url: bytes) -> None:
        self._request.target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._request.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._head = False
        self._open_bodies.add(id(self))
        self._request.method = self._parser.get_method().decode()

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)
        if self._read > _LARGEST_BODY:
            self._refuse(413, "the body is too large")

    def on_message_complete(self) -> None:
        self._open_bodies.discard(id(self))
        self._request.body = b"".join(self._parts)
        self._waiting.put_nowait(self._request)

    def respond(self, response: Response) -> None:
        """Send an answer in one piece."""
        headers = {"content-length": str(len(response.body)), **response.headers}
        self._transport.write(_head(response.status, headers) + response.body)

    def begin(self, headers: Mapping[str, str]) -> None:
        """Begin a stream."""
        self._transport.write(_head(200, {**headers, "transfer-encoding": "chunked"}))

    async def send(self, data: bytes) -> None:
        """A piece of the stream, as one chunk of the transfer."""
        await self._room.wait()
        if data:
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def finish(self) -> None:
        """End the stream as its framing says."""
        self._transport.write(b"0\r\n\r\n")

    def close(self) -> None:
        """Hang up when all is sent."""
        self._transport.close()

    def abort(self) -> None:
        """Hang up."""
        self._transport.abort()

    def raw(self, data: bytes) -> None:
        """Bytes as they are."""
        self._transport.write(data)

    def _refuse(self, status: int, message: str) -> None:
        self.respond(as_json({"detail": message}, status, {"connection": "close"}))
        self._transport.close()

    async def _serve(self) -> None:
        while True:
            await self._answer(await self._waiting.get(), self)


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}", f"{DOUBLE[0]}: {DOUBLE[1]}", "server: double"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode("latin-1")
