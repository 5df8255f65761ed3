"""A request, its timeouts, and the record of one exchange.

All clocks are ``time.perf_counter_ns()``: monotonic, and on Linux the same for every process of a machine.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Self

from vllm_ci.loadgen.coding import error_of, whole_pieces
from vllm_ci.loadgen.http1 import Response, body, parse

Headers = Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Timeouts in seconds; ``None`` for no limit.

    Attributes:
        connect_s: DNS lookup, TCP and TLS handshake.
        first_byte_s: From writing the request to the socket to the first byte of the response.
        between_bytes_s: From one read to the next.
        total_s: The whole exchange, including connecting.
    """

    connect_s: float | None = 10.0
    first_byte_s: float | None = 120.0
    between_bytes_s: float | None = 120.0
    total_s: float | None = 600.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request, sent exactly as given: paths are not normalised, redirects are not followed.

    Attributes:
        method: Any token.
        path: Path and query, appended unchanged to the base URL.
        headers: Headers in addition to the client's; names in any case, ``None`` removes a header.
        body: Body, sent with its length; without a body, only POST, PUT and PATCH send ``Content-Length: 0``.
        stop_after_events: Disconnect after this many server-sent events.
        stop_after_s: Disconnect this many seconds after sending.
        timeouts: Replaces the client's timeouts.
    """

    method: str = "GET"
    path: str = "/"
    headers: Headers = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    stop_after_events: int | None = None
    stop_after_s: float | None = None
    timeouts: Timeouts | None = None

    @classmethod
    def post(
        cls,
        path: str,
        body: object,
        *,
        headers: Headers | None = None,
        stop_after_events: int | None = None,
        stop_after_s: float | None = None,
        timeouts: Timeouts | None = None,
    ) -> Self:
        """A POST of ``body`` as JSON."""
        return cls(
            method="POST",
            path=path,
            headers={"content-type": "application/json"} | dict(headers or {}),
            body=json.dumps(body).encode(),
            stop_after_events=stop_after_events,
            stop_after_s=stop_after_s,
            timeouts=timeouts,
        )


class FailureKind(enum.StrEnum):
    """Why an exchange ended early."""

    CONNECT = "connect"
    CONNECT_TIMEOUT = "connect timeout"
    FIRST_BYTE_TIMEOUT = "first byte timeout"
    BETWEEN_BYTES_TIMEOUT = "between bytes timeout"
    TOTAL_TIMEOUT = "total timeout"
    DISCONNECTED = "disconnected"
    PROTOCOL = "protocol"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why there is no complete response; an intended disconnect is not a failure (:attr:`Exchange.stopped`)."""

    kind: FailureKind
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.message else str(self.kind)


class Read(NamedTuple):
    """One read of the socket: clock and bytes (decrypted under TLS)."""

    at_ns: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One request and the raw response. It is parsed on first access, not while recording.

    Attributes:
        method: Method of the request.
        path: Path of the request.
        begun_ns: Clock when the client started, before connecting.
        sent_ns: Clock when the request was written to the socket; ``begun_ns`` if there was no connection.
        ended_ns: Clock when the last byte was read, or the exchange was aborted.
        clocks_ns: Clock of each socket read.
        data: Bytes of each socket read, including head and framing. Two plain tuples, because garbage collection of a hundred
            thousand small objects would cost more than the recording.
        reused: The connection had served an earlier request.
        stopped: The client disconnected intentionally.
        closed: The server closed the connection.
        transport_failure: Failure below HTTP; ``None`` if there was none.
    """

    method: str
    path: str
    begun_ns: int
    sent_ns: int
    ended_ns: int
    clocks_ns: tuple[int, ...] = field(default=(), repr=False)
    data: tuple[bytes, ...] = field(default=(), repr=False)
    reused: bool = False
    stopped: bool = False
    closed: bool = False
    transport_failure: Failure | None = None

    @cached_property
    def response(self) -> Response:
        """Status line, headers, and whether the body is complete."""
        return parse(self.data, method=self.method, closed=self.closed)

    @property
    def reads(self) -> tuple[Read, ...]:
        """Socket reads, including head and framing."""
        return tuple(map(Read, self.clocks_ns, self.data))

    @property
    def status(self) -> int:
        """HTTP status, 0 when no response head arrived."""
        return self.response.status

    @property
    def headers(self) -> dict[str, str]:
        """Response headers by lower-case name; repeated ones joined with a comma (RFC 9110, 5.3)."""
        joined: dict[str, str] = {}
        for name, value in self.response.headers:
            joined[name] = f"{joined[name]}, {value}" if name in joined else value
        return joined

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """(clock, bytes) of the response body without framing and content coding; it ends where it is not of its coding."""
        coding = self.headers.get("content-encoding", "")
        return whole_pieces(self._framed(), coding) if coding else self._framed()

    def _framed(self) -> Iterator[tuple[int, bytes]]:
        return body(zip(self.clocks_ns, self.data, strict=True), method=self.method)

    @cached_property
    def coding_error(self) -> str:
        """Why the body is not of the coding that its headers say; empty if it is."""
        coding = self.headers.get("content-encoding", "")
        return error_of(self._framed(), coding) if coding else ""

    @cached_property
    def body(self) -> bytes:
        """Response body without framing and content coding."""
        return b"".join(piece for _, piece in self.pieces())

    @property
    def text(self) -> str:
        """Response body as UTF-8, with invalid bytes replaced."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> object:
        """Response body as JSON.

        Raises:
            ValueError: It is not valid JSON.
        """
        return json.loads(self.body)

    @property
    def failure(self) -> Failure | None:
        """Why the response is not complete; ``None`` if it is, or if the client disconnected intentionally."""
        if self.transport_failure:
            return self.transport_failure
        if self.response.error:
            return Failure(kind=FailureKind.PROTOCOL, message=self.response.error)
        if self.coding_error:
            return Failure(kind=FailureKind.PROTOCOL, message=self.coding_error)
        if self.response.complete or self.stopped:
            return None
        return Failure(kind=FailureKind.DISCONNECTED, message="the connection ended before the response was complete")

    @property
    def ok(self) -> bool:
        """Whether the response is complete, with a 2xx status."""
        return self.failure is None and 200 <= self.status < 300

    @property
    def first_byte_ms(self) -> float | None:
        """(first read - sent) in ms; ``None`` without a response."""
        return (self.clocks_ns[0] - self.sent_ns) / 1e6 if self.clocks_ns else None

    @property
    def seconds(self) -> float:
        """(ended - sent) in seconds."""
        return (self.ended_ns - self.sent_ns) / 1e9

    def describe(self) -> str:
        """One line for assertion messages: request, status, time and start of the body."""
        came = f"{self.status}, {len(self.body)} bytes" if self.status else "no response"
        failed = f" ({self.failure})" if self.failure else ""
        return f"{self.method} {self.path} -> {came} in {self.seconds * 1000:.0f} ms{failed}: {self.text[:300]}"
