"""Parses one HTTP/1.1 response (RFC 9112) from socket reads.

Two parsers based on httptools: the sentinel only detects the end of a response and costs 0.06 microseconds per read, so it can
run while measuring; the reader parses the response afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import httptools


@dataclass(frozen=True, kw_only=True)
class Response:
    """Status and headers of a response, without the body.

    Attributes:
        status: Status code; 0 if no response head arrived.
        headers: Names in lower case, in the order received; a name may repeat.
        complete: The body is complete according to its framing.
        error: Why the bytes are not valid HTTP; empty if they are.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    complete: bool
    error: str = ""


class Sentinel:
    """Detects the end of a response while it is read.

    Attributes:
        ended: The response has ended.
        reusable: The connection can be used for another request.
    """

    def __init__(self, method: str) -> None:
        self.ended = False
        self.reusable = False
        self._headless = method == "HEAD"
        self._parser = httptools.HttpResponseParser(self)
        self.feed = self._parser.feed_data

    def on_message_begin(self) -> None:
        """A second message was not requested, so the next data would not belong to the next request."""
        self.reusable = False

    def on_headers_complete(self) -> None:
        """A response to HEAD ends here, regardless of its content length (RFC 9110, 9.3.2)."""
        if self._headless and self._parser.get_status_code() >= 200:
            self._end()

    def on_message_complete(self) -> None:
        """Ignore interim responses (1xx; RFC 9110, 15.2)."""
        if self._parser.get_status_code() >= 200:
            self._end()

    def _end(self) -> None:
        self.reusable = not self.ended and bool(self._parser.should_keep_alive())
        self.ended = True


class Reader:
    """Parses a response incrementally.

    Args:
        method: Method of the request; decides whether there is a body.
        wants_body: Return the body; without it, a read costs a tenth.
    """

    def __init__(self, method: str, *, wants_body: bool) -> None:
        self._headers: list[tuple[str, str]] = []
        self._pieces: list[bytes] = []
        if wants_body:
            self.on_body = self._pieces.append
        self._kept: int | None = None  # number of pieces of the last read that belong to the response; None for all
        self._status = 0
        self._complete = False
        self._framed = False
        self._error = ""
        self._headless = method == "HEAD"
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> list[bytes]:
        """Body pieces in a read; empty after the end of the response or an error."""
        if self._complete or self._error:
            return []
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as problem:
            self._error = "" if self._complete else f"{type(problem).__name__}: {problem}"
        fresh = self._pieces[: self._kept]
        self._pieces.clear()
        return fresh

    def response(self, *, closed: bool) -> Response:
        """The response so far; with ``closed``, the connection has ended, and with it a body without length (RFC 9112, 6.3)."""
        ended_by_close = closed and self._status >= 200 and not self._framed and not self._error
        return Response(
            status=self._status,
            headers=tuple(self._headers),
            complete=self._complete or ended_by_close,
            error=self._error,
        )

    def on_message_begin(self) -> None:
        """Drop the headers of an interim response when the next one starts."""
        if not self._complete:
            self._headers.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by httptools."""
        if not self._complete:
            self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        """Called by httptools."""
        if self._complete:
            return
        self._status = self._parser.get_status_code()
        self._framed = any(name in {"content-length", "transfer-encoding"} for name, _ in self._headers)
        if self._headless and self._status >= 200:
            self._complete = True
            self._kept = 0

    def on_message_complete(self) -> None:
        """Called by httptools; data after the response is dropped."""
        if not self._complete and self._status >= 200:
            self._complete = True
            self._kept = len(self._pieces)


def parse(reads: Iterable[bytes], *, method: str, closed: bool) -> Response:
    """Parse the response in ``reads``.

    Args:
        reads: Socket reads.
        method: Method of the request.
        closed: The server closed the connection after the last read.
    """
    reader = Reader(method, wants_body=False)
    for data in reads:
        reader.feed(data)
    return reader.response(closed=closed)


def body(reads: Iterable[tuple[int, bytes]], *, method: str) -> Iterator[tuple[int, bytes]]:
    """(clock, bytes) pieces of the body without its framing; a piece never spans two reads."""
    reader = Reader(method, wants_body=True)
    for at_ns, data in reads:
        for piece in reader.feed(data):
            yield at_ns, piece
