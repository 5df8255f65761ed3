"""Decodes the content coding of a response (RFC 9110, 8.4.1) piece by piece, so that each part keeps its time of arrival."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterable, Iterator

_AUTOMATIC = zlib.MAX_WBITS | 32  # a header of gzip or of zlib
_RAW = -zlib.MAX_WBITS
CODINGS = ("gzip", "x-gzip", "deflate")


class CodingError(ValueError):
    """A body is not what its ``Content-Encoding`` says."""


def decoded(pieces: Iterable[tuple[int, bytes]], coding: str) -> Iterator[tuple[int, bytes]]:
    """(clock, bytes) of the content; a piece that completes no part of it is left out.

    Args:
        pieces: (clock, bytes) of the body without framing.
        coding: Value of ``Content-Encoding``; the pieces of one that was not offered are returned as they are.

    Raises:
        CodingError: The body is not of this coding.
    """
    if coding.strip().lower() not in CODINGS:
        yield from pieces
        return
    inflate = None
    for at_ns, piece in pieces:
        inflate = inflate or _inflater(piece)
        try:
            content = inflate.decompress(piece)
        except zlib.error as error:
            raise CodingError(f"the body is not {coding}, as its Content-Encoding says: {error}") from error
        if content:
            yield at_ns, content


def whole_pieces(pieces: Iterable[tuple[int, bytes]], coding: str) -> Iterator[tuple[int, bytes]]:
    """Like :func:`decoded`, up to the first piece that is not of this coding."""
    with contextlib.suppress(CodingError):
        yield from decoded(pieces, coding)


def error_of(pieces: Iterable[tuple[int, bytes]], coding: str) -> str:
    """Why a body is not of this coding; empty if it is."""
    try:
        for _ in decoded(pieces, coding):
            pass
    except CodingError as error:
        return str(error)
    return ""


def _inflater(first: bytes) -> zlib._Decompress:
    """A decoder for gzip, zlib, or raw deflate, which some servers send as ``deflate``."""
    try:
        zlib.decompressobj(_AUTOMATIC).decompress(first)
    except zlib.error:
        return zlib.decompressobj(_RAW)
    return zlib.decompressobj(_AUTOMATIC)
