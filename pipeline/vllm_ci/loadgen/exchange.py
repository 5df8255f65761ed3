"""What is asked and what came of it: a request, its limits, and the frozen record of one exchange.

All clocks are ``time.perf_counter_ns()``: monotonic, and on Linux the same for every process of a machine.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Self

from vllm_ci.loadgen.http1 import Response, body, parse

Headers = Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Seconds, ``None`` for no limit.

    Attributes:
        connect_s: Name look-up, TCP and TLS handshake.
        first_byte_s: From the request handed to the socket to the first byte of the answer.
        between_bytes_s: From one read to the next.
        total_s: The whole exchange, connecting included.
    """

    connect_s: float | None = 10.0
    first_byte_s: float | None = 120.0
    between_bytes_s: float | None = 120.0
    total_s: float | None = 600.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request, sent byte for byte as given: paths are not normalised, redirects are not followed.

    Attributes:
        method: Any token.
        path: Path and query, appended to the base URL as they stand.
        headers: On top of the client's; names in any case, ``None`` leaves a header out.
        body: Sent with its length; without one, no body is announced unless the method is POST, PUT or PATCH.
        stop_after_events: Hang up once this many server-sent events have arrived.
        stop_after_s: Hang up this many seconds after sending.
        timeouts: In place of the client's.
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
    """What ended an exchange early."""

    CONNECT = "connect"
    CONNECT_TIMEOUT = "connect timeout"
    FIRST_BYTE_TIMEOUT = "first byte timeout"
    BETWEEN_BYTES_TIMEOUT = "between bytes timeout"
    TOTAL_TIMEOUT = "total timeout"
    DISCONNECTED = "disconnected"
    PROTOCOL = "protocol"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why there is no complete answer; hanging up on purpose is none (:attr:`Exchange.stopped`)."""

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
    """One request and everything that came back, as it came. Parsed when first asked for, not while recording.

    Attributes:
        method: Of the request.
        path: Of the request.
        begun_ns: The client began (before connecting).
        sent_ns: The request was handed to the socket; ``begun_ns`` when there was no connection.
        ended_ns: The last byte was read, or the exchange was given up.
        clocks_ns: Clock of each socket read.
        data: Bytes of each socket read, head and framing included. Two plain tuples, because a hundred thousand pairs in
            objects of their own cost more in garbage collection than in recording.
        reused: Went over a connection that had served an earlier request.
        stopped: We hung up on purpose.
        closed: The server ended the connection.
        transport_failure: What went wrong below HTTP, ``None`` if nothing.
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
        """Status line, headers, and whether the body is whole."""
        return parse(self.data, method=self.method, closed=self.closed)

    @property
    def reads(self) -> tuple[Read, ...]:
        """Socket reads, head and framing included."""
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
        """(clock, bytes) of the response body without framing, as they came."""
        return body(zip(self.clocks_ns, self.data, strict=True), method=self.method)

    @cached_property
    def body(self) -> bytes:
        """Response body without framing."""
        return b"".join(piece for _, piece in self.pieces())

    @property
    def text(self) -> str:
        """Response body as UTF-8, what is not UTF-8 replaced."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> object:
        """Response body as JSON.

        Raises:
            ValueError: It is none.
        """
        return json.loads(self.body)

    @property
    def failure(self) -> Failure | None:
        """Why the answer is not complete; ``None`` when it is, or when we hung up ourselves."""
        if self.transport_failure:
            return self.transport_failure
        if self.response.error:
            return Failure(kind=FailureKind.PROTOCOL, message=self.response.error)
        if self.response.complete or self.stopped:
            return None
        return Failure(kind=FailureKind.DISCONNECTED, message="the connection ended before the answer did")

    @property
    def ok(self) -> bool:
        """A complete answer with a 2xx status."""
        return self.failure is None and 200 <= self.status < 300

    @property
    def first_byte_ms(self) -> float | None:
        """(first read - sent) in ms, ``None`` when nothing came."""
        return (self.clocks_ns[0] - self.sent_ns) / 1e6 if self.clocks_ns else None

    @property
    def seconds(self) -> float:
        """(ended - sent) in seconds."""
        return (self.ended_ns - self.sent_ns) / 1e9

    def describe(self) -> str:
        """One line for an assertion's message: what was asked, what came, the start of the body."""
        came = f"{self.status}, {len(self.body)} bytes" if self.status else "no response"
        failed = f" ({self.failure})" if self.failure else ""
        return f"{self.method} {self.path} -> {came} in {self.seconds * 1000:.0f} ms{failed}: {self.text[:300]}"
