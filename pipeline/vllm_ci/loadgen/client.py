"""The asynchronous client: opens and reuses connections, and runs concurrent exchanges."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from vllm_ci import __version__
from vllm_ci.domain.errors import UsageError
from vllm_ci.loadgen.connection import Connection
from vllm_ci.loadgen.exchange import Exchange, Failure, FailureKind, Headers, Request, Timeouts
from vllm_ci.system.trust import tls_context

# Servers close idle connections; uvicorn, which vLLM uses, after 5 seconds. A request sent at that moment would be lost.
_IDLE_LIMIT_NS = 3_000_000_000
_ANNOUNCES_BODY = {"POST", "PUT", "PATCH"}


def new_loop() -> asyncio.AbstractEventLoop:
    """A uvloop event loop if it is installed, otherwise the default loop."""
    try:
        import uvloop  # absent on some platforms
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


@dataclass(frozen=True, kw_only=True)
class _Origin:
    """The server that requests are sent to."""

    host: str
    port: int
    prefix: str
    netloc: str
    tls: ssl.SSLContext | None

    @classmethod
    def of(cls, base_url: str, tls: ssl.SSLContext | None) -> Self:
        parts = urlsplit(base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise UsageError(
                f"invalid base URL: {base_url!r}",
                why="a base URL has the scheme http or https and a host name",
                remedy="use a URL like http://localhost:8000 (without /v1)",
            )
        secure = parts.scheme == "https"
        return cls(
            host=parts.hostname,
            port=parts.port or (443 if secure else 80),
            prefix=parts.path.rstrip("/"),
            netloc=parts.netloc.rpartition("@")[2],
            tls=(tls or tls_context()) if secure else None,
        )


class Client:
    """Sends requests to one server and records the responses.

    To measure correctly, it ignores proxy variables, does not follow redirects, and does not retry (:class:`Recorder` can).

    Args:
        base_url: ``http://host:port``, with a path prefix if the server has one.
        headers: Sent with every request.
        tls: Context for https; by default the system's trust store.
        timeouts: Limits of requests that do not set their own.
        keep_alive: Reuse connections; otherwise each request opens its own.

    Raises:
        UsageError: ``base_url`` is not an http or https URL.
    """

    def __init__(
        self,
        base_url: str,
        *,
        headers: Headers | None = None,
        tls: ssl.SSLContext | None = None,
        timeouts: Timeouts | None = None,
        keep_alive: bool = True,
    ) -> None:
        self._origin = _Origin.of(base_url, tls)
        self._headers = dict(headers or {})
        self._timeouts = timeouts or Timeouts()
        self._keep_alive = keep_alive
        self._idle: list[Connection] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close idle connections."""
        while self._idle:
            self._idle.pop().abort()

    async def send(self, request: Request, *, fresh: bool = False) -> Exchange:
        """Send one request. Failures are part of the result, not raised; cancelling closes the connection.

        Args:
            request: What to send.
            fresh: Open a new connection even if there is an idle one.
        """
        begun_ns = time.perf_counter_ns()
        timeouts = request.timeouts or self._timeouts
        message = self._message(request)
        try:
            connection = await self._connection(timeouts, fresh=fresh)
        except TimeoutError:
            waited_s = (time.perf_counter_ns() - begun_ns) / 1e9
            return _unconnected(request, begun_ns, FailureKind.CONNECT_TIMEOUT, f"after {waited_s:.1f} s")
        except OSError as problem:
            return _unconnected(request, begun_ns, FailureKind.CONNECT, str(problem) or type(problem).__name__)
        exchange = await connection.exchange(request, message, timeouts=timeouts, begun_ns=begun_ns)
        if connection.usable and self._keep_alive:
            self._idle.append(connection)
        else:
            connection.abort()
        return exchange

    async def gather(
        self,
        requests: Sequence[Request],
        *,
        limit: int | None = None,
        on_end: Callable[[Exchange], None] | None = None,
        send: Callable[[Request], Awaitable[Exchange]] | None = None,
    ) -> tuple[Exchange, ...]:
        """Send all ``requests`` concurrently; results in the same order.

        Args:
            requests: What to send.
            limit: Maximum number of concurrent requests.
            on_end: Called with each exchange as it ends.
            send: Sends one request; by default :meth:`send`.

        Raises:
            Exception: The first exception of ``send`` or ``on_end``; the other requests are cancelled.
        """
        gate = asyncio.Semaphore(limit or max(len(requests), 1))

        async def one(request: Request) -> Exchange:
            async with gate:
                exchange = await (send or self.send)(request)
            if on_end is not None:
                on_end(exchange)
            return exchange

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(request)) for request in requests]
        except ExceptionGroup as raised:  # callers know the exceptions of ``send``, not groups of them
            raise raised.exceptions[0] from raised
        return tuple(task.result() for task in tasks)

    async def _connection(self, timeouts: Timeouts, *, fresh: bool) -> Connection:
        """A usable idle connection, or a new one."""
        if self._idle and not fresh:
            await asyncio.sleep(0)  # let the loop process
            await asyncio.sleep(0)  # connections that were closed
        while self._idle and not fresh:
            connection = self._idle.pop()
            if connection.usable and time.perf_counter_ns() - connection.idle_since_ns < _IDLE_LIMIT_NS:
                return connection
            connection.abort()
        seconds = min((limit for limit in (timeouts.connect_s, timeouts.total_s) if limit is not None), default=None)
        async with asyncio.timeout(seconds):
            _, connection = await asyncio.get_running_loop().create_connection(
                Connection, self._origin.host, self._origin.port, ssl=self._origin.tls
            )
        return connection

    def _message(self, request: Request) -> bytes:
        """Head and body, ready for the socket."""
        headers: dict[str, str | None] = {
            "host": self._origin.netloc,
            "user-agent": f"vllm-ci/{__version__}",
            "accept": "*/*",
            "accept-encoding": "identity",
        }
        if request.body or request.method in _ANNOUNCES_BODY:
            headers["content-length"] = str(len(request.body))
        if not self._keep_alive:
            headers["connection"] = "close"
        for given in (self._headers, request.headers):
            headers |= {name.lower(): value for name, value in given.items()}
        lines = [f"{request.method} {self._origin.prefix}{request.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items() if value is not None]
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError("the request line or a header contains a line break")
        return "\r\n".join([*lines, "", ""]).encode() + request.body


def _unconnected(request: Request, begun_ns: int, kind: FailureKind, message: str) -> Exchange:
    """The record of an exchange without a connection."""
    return Exchange(
        method=request.method,
        path=request.path,
        begun_ns=begun_ns,
        sent_ns=begun_ns,
        ended_ns=time.perf_counter_ns(),
        transport_failure=Failure(kind=kind, message=message),
    )
