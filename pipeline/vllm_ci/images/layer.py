"""Deterministic layers: the same entries give the same bytes, on any machine.

A gzip layer is a row of gzip members (RFC 1952, 2.2): files that lie deflated in a wheel are carried over as they are, with a
header and the CRC the wheel has for them, and only the rest is compressed. What is already compressed is not compressed again.

The rest is compressed by libdeflate in members of one megabyte. Measured: its output is the same on x86-64 (with and without
SSE 4.2, AVX2, AVX-512) and aarch64, ISA-L's is not (``docs/decisions/layers.md``), so ISA-L only inflates here.
"""

from __future__ import annotations

import hashlib
import struct
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import deflate
from isal import isal_zlib

from vllm_ci.domain.image_spec import Compression
from vllm_ci.images.entries import Content, Entry
from vllm_ci.images.store import start_writing

# Bumped when the same inputs give other bytes than before: it is part of every layer's key.
FORMAT = 3
# 1980-01-01, the first day that zip files know; 0 reads as "no time" to some programs.
MTIME = 315532800
GZIP_LEVEL = 3
ZSTD_LEVEL = 3
# Smaller ones are better compressed together with their neighbours.
CARRY_BYTES = 32 * 1024
_BATCH = 1 << 20
_NAME, _PREFIX, _OCTAL_LIMIT = 100, 155, 8**11
# Magic and version, no names of owners, no device numbers.
_USTAR = b"ustar\00000" + bytes(64) + b"0000000\0" * 2
_WRITE_BACK = 32 << 20
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_SUFFIX = {Compression.GZIP: "+gzip", Compression.ZSTD: "+zstd"}


@dataclass(frozen=True, kw_only=True)
class Written:
    """A finished layer.

    Attributes:
        digest: Of the compressed bytes.
        diff_id: Of the tar.
        size_bytes: Of the compressed bytes.
        unpacked_bytes: Of the tar.
    """

    digest: str
    diff_id: str
    size_bytes: int
    unpacked_bytes: int


def facts(compression: Compression) -> dict[str, object]:
    """Everything that determines how entries become bytes; part of every layer's key."""
    if compression is Compression.ZSTD:
        import zstandard

        version = ".".join(map(str, zstandard.ZSTD_VERSION))
        return {"format": FORMAT, "zstd": version, "level": ZSTD_LEVEL, "mtime": MTIME}
    return {
        "format": FORMAT,
        "libdeflate": deflate.__version__,
        "level": GZIP_LEVEL,
        "mtime": MTIME,
        "carry": CARRY_BYTES,
        "batch": _BATCH,
    }


def media_type(compression: Compression) -> str:
    """Media type of such a layer."""
    return f"application/vnd.oci.image.layer.v1.tar{_SUFFIX[compression]}"


class _Compressor(Protocol):
    def write(self, piece: bytes) -> None: ...

    def carry(self, content: Content) -> bool: ...

    def close(self) -> None: ...


class _Sink:
    """A file that knows its hash and size."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.hash = hashlib.sha256()
        self.size = 0
        self._sent = 0

    def write(self, piece: bytes) -> None:
        self.hash.update(piece)
        self.size += len(piece)
        self._file.write(piece)
        if self.size - self._sent >= _WRITE_BACK:
            start_writing(self._file.fileno(), self._sent, self.size - self._sent)
            self._sent = self.size


class _Gzip:
    """Gzip members, one after the other."""

    def __init__(self, sink: _Sink) -> None:
        self._sink = sink
        self._pending = bytearray()

    def write(self, piece: bytes) -> None:
        """Compress in batches that are cut by size alone: how a reader happens to slice its content may not matter."""
        self._pending += piece
        while len(self._pending) >= _BATCH:
            self._member(bytes(self._pending[:_BATCH]))
            del self._pending[:_BATCH]

    def _member(self, content: bytes) -> None:
        packed = deflate.deflate_compress(content, GZIP_LEVEL)
        self._sink.write(b"".join((_GZIP_HEADER, packed, struct.pack("<II", isal_zlib.crc32(content), len(content)))))

    def _drain(self) -> None:
        if self._pending:
            self._member(bytes(self._pending))
            self._pending.clear()

    def carry(self, content: Content) -> bool:
        """Write a file's existing deflate stream as a member of its own, if it has one that is worth it."""
        stream = content.deflated()
        if stream is None or content.size_bytes < CARRY_BYTES:
            return False
        self._drain()
        self._sink.write(_GZIP_HEADER)
        for piece in stream.chunks:
            self._sink.write(piece)
        self._sink.write(struct.pack("<II", stream.crc, content.size_bytes & 0xFFFFFFFF))
        return True

    def close(self) -> None:
        self._drain()


class _Zstd:
    """One zstd frame, written by one thread: the number of threads changes the bytes."""

    def __init__(self, sink: _Sink) -> None:
        import zstandard

        self._sink = sink
        self._stream = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=False).compressobj()

    def write(self, piece: bytes) -> None:
        if compressed := self._stream.compress(piece):
            self._sink.write(compressed)

    def carry(self, content: Content) -> bool:  # noqa: ARG002
        return False

    def close(self) -> None:
        self._sink.write(self._stream.flush())


_COMPRESSORS: dict[Compression, Callable[[_Sink], _Compressor]] = {Compression.GZIP: _Gzip, Compression.ZSTD: _Zstd}


def write(entries: Iterable[Entry], path: Path, compression: Compression) -> Written:
    """Write ``entries`` (sorted, parents first) as a compressed tar to ``path``."""
    with path.open("wb", buffering=_BATCH) as file:
        sink = _Sink(file)
        compressor = _COMPRESSORS[compression](sink)
        plain, size = hashlib.sha256(), 0
        for piece, carried in _tar(entries, compressor):
            plain.update(piece)
            size += len(piece)
            if not carried:
                compressor.write(piece)
        compressor.close()
    return Written(
        digest=f"sha256:{sink.hash.hexdigest()}",
        diff_id=f"sha256:{plain.hexdigest()}",
        size_bytes=sink.size,
        unpacked_bytes=size,
    )


def _tar(entries: Iterable[Entry], compressor: _Compressor) -> Iterator[tuple[bytes, bool]]:
    """The tar in pieces, each with whether the compressed layer has it already."""
    size = 0
    small: list[bytes] = []
    for entry in entries:
        small.append(header(entry))
        size += len(small[-1])
        if entry.content is None:
            continue
        yield b"".join(small), False
        small = []
        carried = compressor.carry(entry.content)
        for piece in entry.content.chunks():
            yield piece, carried
        size += entry.content.size_bytes
        padding = -size % tarfile.BLOCKSIZE
        small.append(bytes(padding))
        size += padding
    small.append(bytes(2 * tarfile.BLOCKSIZE))
    size += 2 * tarfile.BLOCKSIZE
    small.append(bytes(-size % tarfile.RECORDSIZE))
    yield b"".join(small), False


def header(entry: Entry) -> bytes:
    """Tar header of an entry: owner 0, fixed time; ustar where that can say it, else PAX.

    Format: POSIX.1-2017, pax, "ustar Interchange Format". Written here because ``tarfile`` takes 40 microseconds an entry.
    """
    path = entry.path + ("/" if entry.folder else "")
    size = entry.content.size_bytes if entry.content is not None else 0
    name, prefix = _split(path)
    plain = path.isascii() and entry.link.isascii() and len(entry.link) <= _NAME and size < _OCTAL_LIMIT
    if not plain or not name:
        return _pax_header(entry, path)
    kind = b"5" if entry.folder else b"2" if entry.link else b"0"
    before = b"%-100b%07o\0%07o\0%07o\0%011o\0%011o\0" % (_field(name, 100), entry.mode, 0, 0, size, MTIME)
    after = b"%b%b%b" % (kind, _field(entry.link, 100), _USTAR) + _field(prefix, 155) + bytes(12)
    checksum = sum(before) + sum(after) + 8 * ord(" ")
    return before + b"%06o\0 " % checksum + after


def _field(text: str, size: int) -> bytes:
    return text.encode().ljust(size, b"\0")


def _split(path: str) -> tuple[str, str]:
    """Name and prefix of a path, as ustar takes them; no name when they do not fit."""
    if len(path) <= _NAME:
        return path, ""
    cut = path.find("/", max(len(path) - _NAME - 1, 0), len(path) - 1)
    if cut <= 0 or cut > _PREFIX:
        return "", ""
    return path[cut + 1 :], path[:cut]


def _pax_header(entry: Entry, path: str) -> bytes:
    info = tarfile.TarInfo(path)
    info.mode = entry.mode
    info.mtime = MTIME
    if entry.folder:
        info.type = tarfile.DIRTYPE
    elif entry.link:
        info.type = tarfile.SYMTYPE
        info.linkname = entry.link
    elif entry.content is not None:
        info.size = entry.content.size_bytes
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
