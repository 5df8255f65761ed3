"""One connection: an asyncio protocol that does as little as possible while data arrives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import httptools

from vllm_ci.loadgen import sse
from vllm_ci.loadgen.exchange import Exchange, Failure, FailureKind, Request, Timeouts
from vllm_ci.loadgen.http1 import Reader, Sentinel

_clock = time.perf_counter_ns


@dataclass(frozen=True, kw_only=True)
class _Ending:
    """How one response ended."""

    failure: Failure | None = None
    stopped: bool = False
    closed: bool = False


class Connection(asyncio.Protocol):
    """Sends requests sequentially and records each response.

    Attributes:
        idle_since_ns: Clock at the end of the last response.
        usable: Another request may be sent.
    """

    def __init__(self) -> None:
        self.idle_since_ns = 0
        self.usable = True
        self._transport: asyncio.Transport | None = None
        self._served = 0
        self._timer: asyncio.TimerHandle | None = None
        self._done: asyncio.Future[_Ending] | None = None
        self._times: list[int] = []
        self._data: list[bytes] = []
        self._unasked()
        self._watch: Callable[[int, bytes], bool] | None = None

    def _unasked(self) -> None:
        """Without a request, any data (such as a late 408) makes the connection unusable."""

        def unusable(_data: bytes) -> None:
            self.usable = False

        self._sentinel = Sentinel("GET")
        self._feed: Callable[[bytes], None] = unusable

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports are not a subclass

    def data_received(self, data: bytes) -> None:
        """Called by the loop with every read: record the clock and the bytes, and detect the end of the response."""
        self._times.append(_clock())
        self._data.append(data)
        try:
            self._feed(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as problem:
            self._broken(problem)
            return
        if self._sentinel.ended:
            self._finish(_Ending())
        elif self._watch is not None and self._watch(self._times[-1], data):
            self.abort()
            self._finish(_Ending(stopped=True))

    def _broken(self, problem: Exception) -> None:
        """The data is not valid HTTP, or follows a complete response."""
        self.usable = False
        failure = None if self._sentinel.ended else Failure(kind=FailureKind.PROTOCOL, message=str(problem))
        self._finish(_Ending(failure=failure))

    def eof_received(self) -> bool:
        """Called by the loop when the server has closed its side; closes ours."""
        self._lost(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._lost(exc)

    def _lost(self, exc: Exception | None) -> None:
        self.usable = False
        failure = Failure(kind=FailureKind.DISCONNECTED, message=str(exc) or type(exc).__name__) if exc else None
        self._finish(_Ending(closed=True, failure=failure))

    def _finish(self, ending: _Ending) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(ending)

    def abort(self) -> None:
        """Close the connection immediately."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    async def exchange(self, request: Request, message: bytes, *, timeouts: Timeouts, begun_ns: int) -> Exchange:
        """Send ``message`` and record the response.

        Args:
            request: The request that ``message`` was built from.
            message: Head and body.
            timeouts: Limits; ``connect_s`` is not used here.
            begun_ns: Clock when the client started with this request.
        """
        loop = asyncio.get_running_loop()
        self._done = loop.create_future()
        self._times, self._data = [], []
        self._sentinel = Sentinel(request.method)
        self._feed = self._sentinel.feed

        self._watch = None
        if request.stop_after_events is not None:
            self._watch = _EventWatch(request.method, request.stop_after_events).reached
        reused, self._served = bool(self._served), self._served + 1
        sent_ns = _clock()
        cast("asyncio.Transport", self._transport).write(message)
        self._arm(loop, _Deadlines(timeouts=timeouts, begun_ns=begun_ns, sent_ns=sent_ns, stop_after_s=request.stop_after_s))
        try:
            if not self.usable:
                self._lost(None)
            ending = await self._done
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._done = None
        return self._record(request, ending, begun_ns=begun_ns, sent_ns=sent_ns, reused=reused)

    def _record(self, request: Request, ending: _Ending, *, begun_ns: int, sent_ns: int, reused: bool) -> Exchange:
        self.usable = self.usable and self._sentinel.ended and self._sentinel.reusable
        received_to_the_end = self._sentinel.ended or ending.closed
        self.idle_since_ns = self._times[-1] if self._times and received_to_the_end else _clock()
        self._unasked()
        return Exchange(
            method=request.method,
            path=request.path,
            begun_ns=begun_ns,
            sent_ns=sent_ns,
            ended_ns=self.idle_since_ns,
            clocks_ns=tuple(self._times),
            data=tuple(self._data),
            reused=reused,
            stopped=ending.stopped,
            closed=ending.closed,
            transport_failure=ending.failure,
        )

    def _arm(self, loop: asyncio.AbstractEventLoop, deadlines: _Deadlines) -> None:
        """Check deadlines by a timer, not on every read.

        The first byte may start an earlier deadline, so the timer is never later than ``between_bytes_s`` from now.
        """
        now = _clock()
        due_ns, kind = deadlines.next(self._times[-1] if self._times else None)
        if due_ns is None:
            return
        if due_ns > now:
            gap_s = deadlines.timeouts.between_bytes_s
            delay_s = (due_ns - now) / 1e9
            self._timer = loop.call_later(delay_s if gap_s is None else min(delay_s, gap_s), self._arm, loop, deadlines)
            return
        self.abort()
        self._finish(
            _Ending(stopped=True) if kind is None else _Ending(failure=Failure(kind=kind, message=deadlines.limit(kind)))
        )


@dataclass(frozen=True, kw_only=True)
class _Deadlines:
    """The deadlines of an exchange; a kind of ``None`` is an intended disconnect."""

    timeouts: Timeouts
    begun_ns: int
    sent_ns: int
    stop_after_s: float | None

    def next(self, last_read_ns: int | None) -> tuple[int | None, FailureKind | None]:
        """The next deadline and its kind."""
        waiting = (
            (self.sent_ns, self.timeouts.first_byte_s, FailureKind.FIRST_BYTE_TIMEOUT)
            if last_read_ns is None
            else (last_read_ns, self.timeouts.between_bytes_s, FailureKind.BETWEEN_BYTES_TIMEOUT)
        )
        candidates = (
            waiting,
            (self.begun_ns, self.timeouts.total_s, FailureKind.TOTAL_TIMEOUT),
            (self.sent_ns, self.stop_after_s, None),
        )
        due = [(start + int(limit * 1e9), kind) for start, limit, kind in candidates if limit is not None]
        return min(due, key=lambda entry: entry[0]) if due else (None, None)

    def limit(self, kind: FailureKind) -> str:
        """The limit of this kind, as text."""
        seconds = {
            FailureKind.FIRST_BYTE_TIMEOUT: self.timeouts.first_byte_s,
            FailureKind.BETWEEN_BYTES_TIMEOUT: self.timeouts.between_bytes_s,
            FailureKind.TOTAL_TIMEOUT: self.timeouts.total_s,
        }[kind]
        return f"after {seconds} s"


class _EventWatch:
    """Counts server-sent events while they arrive, for requests that disconnect after some of them."""

    def __init__(self, method: str, enough: int) -> None:
        self._reader = Reader(method, wants_body=True)
        self._decoder = sse.Decoder()
        self._missing = enough

    def reached(self, at_ns: int, data: bytes) -> bool:
        """Whether enough events have arrived, including this read."""
        for piece in self._reader.feed(data):
            self._missing -= len(self._decoder.feed(at_ns, piece))
        return self._missing <= 0
