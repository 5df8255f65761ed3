"""What goes into a layer: files by where their content comes from, folders, links."""

from __future__ import annotations

import os
import struct
import threading
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from isal import isal_zlib

from vllm_ci.domain.errors import BuildError

CHUNK = 1 << 20
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # APPNOTE.TXT 4.3.7


@dataclass(frozen=True, kw_only=True)
class Deflated:
    """A raw deflate stream that exists already, and what gzip says of its content."""

    chunks: Iterable[bytes]
    crc: int


class Content(Protocol):
    """Where the bytes of a file come from."""

    @property
    def size_bytes(self) -> int:
        """Size of the content."""

    def chunks(self) -> Iterator[bytes]:
        """The content, in pieces."""

    def deflated(self) -> Deflated | None:
        """The content as the deflate stream it is already stored as, if it is."""


@dataclass(frozen=True)
class Inline:
    """Bytes at hand."""

    content: bytes

    @property
    def size_bytes(self) -> int:  # noqa: D102
        return len(self.content)

    def chunks(self) -> Iterator[bytes]:  # noqa: D102
        yield self.content

    def deflated(self) -> None:  # noqa: D102
        return None


@dataclass(frozen=True)
class OnDisk:
    """A file of this machine."""

    path: Path
    size_bytes: int

    def chunks(self) -> Iterator[bytes]:  # noqa: D102
        with self.path.open("rb") as file:
            while piece := file.read(CHUNK):
                yield piece

    def deflated(self) -> None:  # noqa: D102
        return None


class Archive:
    """A zip file, read by several threads at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self.members = tuple(info for info in archive.infolist() if not info.is_dir())
        except zipfile.BadZipFile as error:
            raise BuildError(f"{path.name} is not a zip file", why=str(error), remedy=f"delete {path}, build again") from error
        self._lock = threading.Lock()
        self._file: int | None = None

    def _handle(self) -> int:
        with self._lock:
            if self._file is None:
                self._file = os.open(self.path, os.O_RDONLY)
        return self._file

    def close(self) -> None:
        """Close the file; reading opens it again."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def raw(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        """Bytes of a member as stored."""
        handle = self._handle()
        header = _LOCAL_HEADER.unpack(os.pread(handle, _LOCAL_HEADER.size, info.header_offset))
        position = info.header_offset + _LOCAL_HEADER.size + header[9] + header[10]
        end = position + info.compress_size
        while position < end:
            piece = os.pread(handle, min(CHUNK, end - position), position)
            if not piece:
                raise BuildError(f"{self.path.name} ends too early", remedy=f"delete {self.path} and build again")
            position += len(piece)
            yield piece


@dataclass(frozen=True)
class ArchiveMember:
    """A file in a wheel or another zip file."""

    archive: Archive
    info: zipfile.ZipInfo

    @property
    def size_bytes(self) -> int:  # noqa: D102
        return self.info.file_size

    def chunks(self) -> Iterator[bytes]:  # noqa: D102
        crc, size = 0, 0
        try:
            for piece in self._inflated():
                crc, size = isal_zlib.crc32(piece, crc), size + len(piece)
                yield piece
        except isal_zlib.error:  # type: ignore[misc]  # its stub has the exception as an instance
            size = -1
        if (crc, size) != (self.info.CRC, self.info.file_size):
            raise BuildError(
                f"{self.info.filename} in {self.archive.path.name} is damaged", remedy="it has to be built again by its author"
            )

    def _inflated(self) -> Iterator[bytes]:
        if self.info.compress_type == zipfile.ZIP_STORED:
            yield from self.archive.raw(self.info)
            return
        if self.info.compress_type != zipfile.ZIP_DEFLATED:
            raise BuildError(f"{self.info.filename} in {self.archive.path.name} uses a compression that wheels do not allow")
        inflate = isal_zlib.decompressobj(-15)
        for piece in self.archive.raw(self.info):
            if content := inflate.decompress(piece):
                yield content
        if rest := inflate.flush():
            yield rest

    def deflated(self) -> Deflated | None:  # noqa: D102
        if self.info.compress_type != zipfile.ZIP_DEFLATED:
            return None
        return Deflated(chunks=self.archive.raw(self.info), crc=self.info.CRC)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One member of a layer.

    Attributes:
        path: In the image, without a slash in front.
        mode: Permission bits.
        content: Of a file; ``None`` for folders and links.
        link: Target of a symbolic link, empty for the others.
        folder: It is a folder.
    """

    path: str
    mode: int = 0o644
    content: Content | None = None
    link: str = ""
    folder: bool = False


def read(content: Content) -> bytes:
    """All of a content at once."""
    return b"".join(content.chunks())


def from_folder(root: Path) -> Iterator[Entry]:
    """Everything below a folder of this machine, with normalised modes."""
    for path, folders, files in os.walk(root):
        base = Path(path)
        relative = base.relative_to(root)
        for name in folders:
            where = base / name
            if where.is_symlink():
                yield Entry(path=str(relative / name), mode=0o777, link=str(where.readlink()))
            else:
                yield Entry(path=str(relative / name), mode=0o755, folder=True)
        for name in files:
            where = base / name
            if where.is_symlink():
                yield Entry(path=str(relative / name), mode=0o777, link=str(where.readlink()))
                continue
            status = where.stat()
            mode = 0o755 if status.st_mode & 0o111 else 0o644
            yield Entry(path=str(relative / name), mode=mode, content=OnDisk(where, status.st_size))


def with_parents(entries: Iterable[Entry]) -> list[Entry]:
    """Entries sorted by path, each folder before what is in it and no folder missing.

    Raises:
        BuildError: Two entries claim one path, or one is a file where another needs a directory.
    """
    by_path: dict[str, Entry] = {}
    for entry in entries:
        if entry.path in by_path and not (entry.folder and by_path[entry.path].folder):
            raise BuildError(f"/{entry.path} is in one layer twice", remedy="this is a fault in vllm-ci; please report it")
        by_path[entry.path] = entry
    for path in list(by_path):
        parent = path.rpartition("/")[0]
        while parent and parent not in by_path:
            by_path[parent] = Entry(path=parent, mode=0o755, folder=True)
            parent = parent.rpartition("/")[0]
        if parent and not by_path[parent].folder:
            raise BuildError(
                f"/{parent} is a file or a link, and /{path} needs a directory there",
                remedy="leave one of them out of the image",
            )
    return [by_path[path] for path in sorted(by_path)]
