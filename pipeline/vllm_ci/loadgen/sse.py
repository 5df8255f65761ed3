"""Parses server-sent events according to the HTML Living Standard (sections 9.2.5 and 9.2.6).

One byte order mark at the start is dropped; a line ends with CRLF, LF or CR; a line that starts with a colon is a comment;
several ``data`` lines are joined with LF; an event without data is not dispatched; an incomplete event at the end of the stream
is dropped. Lines are split as bytes and decoded afterwards, so a read may end anywhere, even inside a UTF-8 character.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

_BOM = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One event. A tuple, because a stream has thousands of them and a frozen dataclass costs three times as much.

    Attributes:
        at_ns: Clock of the read that completed the event.
        data: Its ``data`` lines joined with LF.
        type: Its ``event`` field, ``message`` by default.
        id: The last ``id`` field so far.
    """

    at_ns: int
    data: str
    type: str = "message"
    id: str = ""


class Decoder:
    """Converts pieces of a stream to events; keeps incomplete data for the next piece.

    Attributes:
        comments: Number of comment lines so far.
        retry_ms: The last ``retry`` field of the server.
        last_id: The last event id.
        between: There is no incomplete event: the next piece starts a new one.
    """

    def __init__(self) -> None:
        self.comments = 0
        self.retry_ms: int | None = None
        self._partial: list[bytes] = []
        self._data: list[bytes] = []
        self._type = b""
        self.last_id = ""
        self._after_cr = False
        self._started = False
        self.between = False

    def feed(self, at_ns: int, piece: bytes) -> list[Event]:
        """Events that end in ``piece``, which was read at ``at_ns``."""
        if self._after_cr and piece:
            self._after_cr = False
            piece = piece.removeprefix(b"\n")
        if not self._started:
            piece = self._without_bom(piece)
        events = self._lines(at_ns, piece)
        self.between = self._started and not (self._partial or self._data or self._type or self._after_cr)
        return events

    def _without_bom(self, piece: bytes) -> bytes:
        """``piece`` without a byte order mark at the start of the stream; empty while more data is needed to decide."""
        piece = b"".join(self._partial) + piece
        self._partial.clear()
        if len(piece) < len(_BOM) and _BOM.startswith(piece):
            self._partial.append(piece)
            return b""
        self._started = True
        return piece.removeprefix(_BOM)

    def _lines(self, at_ns: int, piece: bytes) -> list[Event]:
        if not piece:
            return []
        if b"\n" not in piece and b"\r" not in piece:
            self._partial.append(piece)  # joined at the end of the line, so that long lines in small reads take linear time
            return []
        text = b"".join(self._partial) + piece
        self._partial.clear()
        events = []
        for line in text.splitlines(keepends=True):
            if not line.endswith((b"\n", b"\r")):
                self._partial.append(line)
            elif event := self._line(at_ns, line.rstrip(b"\r\n")):
                events.append(event)
        self._after_cr = text.endswith(b"\r")
        return events

    def _line(self, at_ns: int, line: bytes) -> Event | None:
        if not line:
            return self._dispatch(at_ns)
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not name:
            self.comments += 1
        elif name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._type = value
        elif name == b"id" and b"\0" not in value:
            self.last_id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit():
            self.retry_ms = int(value)
        return None

    def _dispatch(self, at_ns: int) -> Event | None:
        data, kind = b"\n".join(self._data), self._type
        had_data = bool(self._data)
        self._data.clear()
        self._type = b""
        if not had_data:
            return None
        return Event(at_ns, data.decode("utf-8", "replace"), kind.decode("utf-8", "replace") or "message", self.last_id)

    @property
    def unfinished(self) -> bool:
        """Whether there is an incomplete event after the last complete one."""
        return bool(self._partial or self._data)


def iterate(pieces: Iterable[tuple[int, bytes]]) -> Iterator[Event]:
    """Iterate over the events of a body given as (clock, bytes) pieces."""
    decoder = Decoder()
    for at_ns, piece in pieces:
        # Fast path: nearly all pieces are exactly one complete `data: ...` event.
        if (
            decoder.between
            and piece[:6] == b"data: "
            and piece[-1:] == b"\n"
            and piece.find(b"\n") == len(piece) - 2
            and piece.find(b"\r") < 0
        ):
            yield Event(at_ns, piece[6:-2].decode("utf-8", "replace"), "message", decoder.last_id)
        else:
            yield from decoder.feed(at_ns, piece)


def decode(pieces: Iterable[tuple[int, bytes]]) -> tuple[Event, ...]:
    """All events of a body given as (clock, bytes) pieces."""
    return tuple(iterate(pieces))
