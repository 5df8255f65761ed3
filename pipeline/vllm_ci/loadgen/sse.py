"""Server-sent events, as the HTML Living Standard says (section 9.2.5 and 9.2.6, parsing an event stream).

One byte order mark at the start is dropped; a line ends with CRLF, LF or CR; a line that starts with a colon is a comment;
several ``data`` lines are joined with LF; an event without data is not dispatched; an event cut off by the end of the stream is
dropped. Lines are found in bytes and decoded afterwards, so a read may end anywhere, inside a UTF-8 character included.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

_BOM = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One event. A tuple because a stream has thousands: three times cheaper to make than a frozen dataclass.

    Attributes:
        at_ns: Clock of the read that carried the end of its blank line.
        data: Its ``data`` lines joined with LF.
        type: Its ``event`` field, ``message`` by default.
        id: The last ``id`` field seen up to here.
    """

    at_ns: int
    data: str
    type: str = "message"
    id: str = ""


class Decoder:
    """Turns pieces of a stream into events, keeping what a piece leaves unfinished.

    Attributes:
        comments: Comment lines so far.
        retry_ms: The last reconnection time that the server asked for.
        last_id: The last event id.
        between: Nothing is unfinished: the next piece begins an event.
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
        """``piece`` less a byte order mark at the start of the stream; empty while that cannot be told."""
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
            self._partial.append(piece)  # joined once its line ends: a long line in small reads stays linear
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
        """Something follows the last event that was dispatched and is no complete event."""
        return bool(self._partial or self._data)


def iterate(pieces: Iterable[tuple[int, bytes]]) -> Iterator[Event]:
    """Events of a body given as (clock, bytes) pieces, one after the other."""
    decoder = Decoder()
    for at_ns, piece in pieces:
        # The shape that nearly every piece of every server has, one whole `data: ...` event, needs no decoder.
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
