"""Sends requests exactly as given, valid or not: paths are not normalised, and only ``Host`` is added to the headers.

What happens to a connection is a fact in the answer, never an exception; only a server that accepts no connection at all
raises, because nothing can be concluded from that.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import urlsplit

from vllm_ci.suites.traffic import Traffic
from vllm_ci.suites.verdicts import Errored
from vllm_ci.system.trust import tls_context

CONNECT_S = 5.0
MOST_BYTES = 4_000_000
_PIECE = 65_536
_MOST_LINES = 200

Headers = Mapping[str, str] | Iterable[tuple[str, str]]


class NoConnectionError(Errored):
    """The server accepts no connection."""


@dataclass(frozen=True, kw_only=True)
class RawResponse:
    """A response.

    Attributes:
        status: HTTP status; 0 without a response in HTTP.
        body: The raw body, up to :data:`MOST_BYTES`.
        headers: Names in lower case; the values of repeated headers are joined by commas.
        problem: Why the response is missing or incomplete (``timeout``, ``closed``, ``reset``, ``not HTTP``); otherwise empty.
    """

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    @property
    def kind(self) -> str:
        """The media type, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def __str__(self) -> str:
        if not self.status:
            return f"no response ({self.problem})"
        return f"{self.status} {self.text[:300]}".strip()


class Line:
    """A connection to a server, for bytes.

    Args:
        url: Base URL of the server.
        timeout_s: Time limit for each response as a whole.
        receive_bytes: Size of the receive buffer; 0 for the system's.

    Raises:
        NoConnectionError: The server accepts no connection, after a second try.
    """

    def __init__(self, url: str, *, timeout_s: float = 30.0, receive_bytes: int = 0) -> None:
        parts = urlsplit(url)
        self.host, self.prefix = parts.hostname or "", parts.path.rstrip("/")
        self.authority = parts.netloc.rpartition("@")[2]
        self._timeout_s = timeout_s
        self.socket = _connected(parts.scheme, self.host, parts.port, receive_bytes)
        self._source = _Bounded(self.socket)
        self._reader: io.BufferedReader[Any] = io.BufferedReader(self._source, _PIECE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.socket.close()

    def write(self, data: bytes) -> str:
        """Send bytes; returns what went wrong, empty if nothing did (a server may answer and close before it has read all)."""
        self.socket.settimeout(self._timeout_s)
        try:
            self.socket.sendall(data)
        except OSError as error:
            return _problem(error)
        return ""

    def hang_up(self) -> None:
        """End the connection, from any thread; whoever waits for a response gets none."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def request(
        self, target: str, *, method: str = "GET", headers: Headers = (), body: bytes = b"", version: str = "HTTP/1.1"
    ) -> bytes:
        """The bytes of a request; ``Host`` is added unless it is given, and ``Content-Length`` if there is a body."""
        given = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        names = {name.lower() for name, _ in given}
        added = [("Host", self.authority)] if "host" not in names else []
        if body and not names & {"content-length", "transfer-encoding"}:
            given.append(("Content-Length", str(len(body))))
        lines = [f"{method} {target} {version}", *(f"{name}: {value}" for name, value in (*added, *given)), "", ""]
        return "\r\n".join(lines).encode("utf-8", "surrogateescape") + body

    def response(self, method: str = "GET") -> RawResponse:
        """Read one response, up to its end, the time limit or :data:`MOST_BYTES`."""
        deadline = time.monotonic() + self._timeout_s
        self._source.deadline = deadline
        answer = http.client.HTTPResponse(cast("socket.socket", _Shared(self._reader)), method=method)
        try:
            answer.begin()
        except (http.client.HTTPException, OSError, ValueError) as error:
            return RawResponse(status=0, problem=_problem(error))
        headers: dict[str, str] = {}
        for name, value in answer.getheaders()[:_MOST_LINES]:
            headers[name.lower()] = f"{headers[name.lower()]}, {value}" if name.lower() in headers else value
        body, problem = _body(answer)
        return RawResponse(status=answer.status, body=body, headers=headers, problem=problem)

    def rest(self, quiet_s: float) -> bytes:
        """All bytes that arrive until the connection ends, or nothing comes for some seconds."""
        self._source.deadline = time.monotonic() + quiet_s
        found = b""
        try:
            while len(found) < MOST_BYTES and (piece := self._reader.read1(_PIECE)):
                found += piece
                self._source.deadline = time.monotonic() + quiet_s
        except (OSError, ValueError):
            pass
        return found


def send(
    url: str,
    target: str,
    *,
    method: str = "GET",
    headers: Headers = (),
    body: bytes = b"",
    timeout_s: float = 30.0,
    version: str = "HTTP/1.1",
    traffic: Traffic | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> RawResponse:
    """Send one request on a new connection, and again when a rate limit of the server asks to wait.

    Args:
        url: Base URL of the server.
        target: Request target, sent unchanged (RFC 9112, section 3.2), after the path of ``url``.
        method: Method.
        headers: Headers, in order; ``Content-Length`` is added if there is a body.
        body: Body.
        timeout_s: Time limit for the response as a whole.
        version: Version in the request line.
        traffic: Decides how long rate limits are waited for; without it a 429 is returned at once.
        sleep: Waits some seconds.

    Raises:
        NoConnectionError: The server accepts no connection.
        RateLimitedError: The server limits the rate of requests for longer than a run waits.
    """
    body = traffic.spoken(target, body) if traffic is not None else body
    refusals = traffic.sent(method, target, body) if traffic is not None else None
    while True:
        with Line(url, timeout_s=timeout_s) as line:
            full = target if "://" in target or target == "*" else line.prefix + target
            data = line.request(full, method=method, headers=headers, body=body, version=version)
            broken = line.write(data)
            answer = line.response(method)
        if not answer.status and broken:
            answer = RawResponse(status=0, problem=broken)
        pause_s = refusals.pause_s(answer.status, answer.headers.get("retry-after")) if refusals is not None else None
        if pause_s is None:
            return answer
        sleep(pause_s)


def _connected(scheme: str, host: str, port: int | None, receive_bytes: int) -> socket.socket:
    address = (host, port or (443 if scheme == "https" else 80))
    error: OSError | None = None
    for _ in range(2):
        try:
            plain = socket.create_connection(address, timeout=CONNECT_S)
            if receive_bytes:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            return tls_context().wrap_socket(plain, server_hostname=host) if scheme == "https" else plain
        except OSError as caught:
            error = caught
    raise NoConnectionError(f"{address[0]}:{address[1]} accepts no connection: {error}") from error


class _Bounded(io.RawIOBase):
    """Reads from a socket until a deadline."""

    def __init__(self, source: socket.socket) -> None:
        self._source = source
        self.deadline = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._source.settimeout(left_s)
        return self._source.recv_into(buffer)


class _Shared:
    """A socket for :class:`http.client.HTTPResponse` whose reader survives a response, for the next one."""

    def __init__(self, reader: io.BufferedReader[Any]) -> None:
        self._reader = reader

    def makefile(self, _mode: str) -> _Unclosed:
        return _Unclosed(self._reader)


class _Unclosed:
    def __init__(self, reader: io.BufferedReader[Any]) -> None:
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def close(self) -> None:
        """Leave the connection open for the next response."""

    def flush(self) -> None:
        """Nothing is written here."""


def _body(answer: http.client.HTTPResponse) -> tuple[bytes, str]:
    found = b""
    try:
        while len(found) < MOST_BYTES and (piece := answer.read1(_PIECE)):
            found += piece
    except (http.client.HTTPException, OSError, ValueError) as error:
        return found, _problem(error)
    return found, ""


def _problem(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, http.client.RemoteDisconnected):
        return "closed"
    if isinstance(error, ConnectionError):
        return "reset"
    if isinstance(error, http.client.IncompleteRead):
        return "closed"
    return "not HTTP" if isinstance(error, http.client.HTTPException | ValueError) else str(error) or type(error).__name__
