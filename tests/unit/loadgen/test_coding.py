"""Compressed bodies are decoded piece by piece, with the time at which each part could be read."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_ci.loadgen.coding import CodingError, decoded, error_of, whole_pieces

_WINDOWS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS, "raw": -zlib.MAX_WBITS}


def compressed(events: Iterable[bytes], kind: str, *, flushed: bool) -> list[bytes]:
    coder = zlib.compressobj(wbits=_WINDOWS[kind])
    pieces = [coder.compress(event) + (coder.flush(zlib.Z_SYNC_FLUSH) if flushed else b"") for event in events]
    return [*pieces, coder.flush()]


def clocked(pieces: Iterable[bytes]) -> list[tuple[int, bytes]]:
    return list(enumerate(pieces))


@pytest.mark.parametrize("kind", _WINDOWS)
def test_each_flushed_event_is_read_when_it_arrives(kind: str) -> None:
    events = [b"data: %d\n\n" % number for number in range(20)]
    coding = "deflate" if kind == "raw" else kind
    assert list(decoded(clocked(compressed(events, kind, flushed=True)), coding)) == clocked(events)


def test_what_is_not_flushed_is_read_at_the_end() -> None:
    pieces = clocked(compressed([b"data: %d\n\n" % number for number in range(20)], "gzip", flushed=False))
    assert {at for at, _ in decoded(pieces, "gzip")} == {20}


@given(content=st.binary(max_size=2000), step=st.integers(min_value=2, max_value=50))
def test_any_cut_gives_the_same_content(content: bytes, step: int) -> None:
    data = b"".join(compressed([content], "gzip", flushed=False))
    pieces = clocked(data[at : at + step] for at in range(0, len(data), step))
    assert b"".join(piece for _, piece in decoded(pieces, "GZIP ")) == content


def test_a_coding_that_was_not_offered_is_left_alone() -> None:
    assert list(decoded([(1, b"abc")], "br")) == [(1, b"abc")]


def test_a_body_that_is_not_compressed_as_announced_is_an_error() -> None:
    pieces = [(1, b"data: {}\n\n")]
    with pytest.raises(CodingError, match="Content-Encoding"):
        list(decoded(pieces, "gzip"))
    assert "Content-Encoding" in error_of(pieces, "gzip")
    assert list(whole_pieces(pieces, "gzip")) == []
