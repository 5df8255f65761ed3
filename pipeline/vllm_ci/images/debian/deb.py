"""Debian packages, unpacked without dpkg and without running anything of theirs (deb(5))."""

from __future__ import annotations

import io
import lzma
import os
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from vllm_ci.domain.errors import BuildError
from vllm_ci.images import members
from vllm_ci.images.members import Kind, Member
from vllm_ci.images.stream import Strict

_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


@dataclass(frozen=True, kw_only=True)
class Control:
    """A package's own metadata.

    Attributes:
        text: Its ``control`` file.
        md5sums: Its ``md5sums`` file, empty when it has none.
    """

    text: str
    md5sums: str


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Members of an ``ar`` archive (ar(5), common format)."""
    content = path.read_bytes()
    if not content.startswith(b"!<arch>\n"):
        raise BuildError(f"{path.name} is no Debian package", remedy=f"delete {path} and build again")
    position = 8
    while position + 60 <= len(content):
        name = content[position : position + 16].decode().strip().rstrip("/")
        size = int(content[position + 48 : position + 58])
        yield name, content[position + 60 : position + 60 + size]
        position += 60 + size + size % 2


def _opened(name: str, content: bytes) -> IO[bytes]:
    stream = io.BytesIO(content)
    if name.endswith(".xz"):
        return lzma.open(stream)
    if name.endswith(".zst"):
        import zstandard

        return cast("IO[bytes]", zstandard.ZstdDecompressor().stream_reader(stream))
    if name.endswith(".gz"):
        import gzip

        return cast("IO[bytes]", gzip.open(stream))
    return stream


def merged(path: str) -> str:
    """A path of a package on a system with merged /usr: ``bin/sh`` lies at ``usr/bin/sh``."""
    clean = path.removeprefix("./").strip("/")
    return f"usr/{clean}" if clean.partition("/")[0] in _MERGED else clean


@dataclass(frozen=True, kw_only=True)
class DebPackage:
    """An unpacked package.

    Attributes:
        control: What it says of itself.
        members: What it holds, at the paths of a system with merged /usr.
    """

    control: Control
    members: Sequence[Member]


def unpack(path: Path, folder: Path) -> DebPackage:
    """Unpack a package's files into the empty directory ``folder``, each under the number of its member.

    Raises:
        BuildError: It is no package, or holds what must not be unpacked.
    """
    control, found = Control(text="", md5sums=""), []
    for name, content in _members(path):
        if name.startswith("control.tar"):
            control = _control(name, content)
        elif name.startswith("data.tar"):
            found = _data(path.name, _opened(name, content), folder)
    return DebPackage(control=control, members=found)


def _data(name: str, stream: IO[bytes], folder: Path) -> list[Member]:
    target = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=Strict) as archive:
            found = members.read_archive(archive, name, contents=target)
    finally:
        os.close(target)
    for item in found:
        _refuse_whiteout(name, item)
    return [item._replace(path=merged(item.path), link=_merged_link(item)) for item in found]


def _merged_link(item: Member) -> str:
    return merged(item.link) if item.kind is Kind.HARD_LINK else item.link


def _refuse_whiteout(name: str, item: Member) -> None:
    if item.kind in {Kind.WHITEOUT, Kind.OPAQUE}:
        folder, victim = (item.path, members.OPAQUE) if item.kind is Kind.OPAQUE else posixpath.split(item.path)
        part = victim if item.kind is Kind.OPAQUE else members.WHITEOUT + victim
        raise BuildError(
            f"{name}: {posixpath.join(folder, part)} holds {part} in its name",
            why="in an image, a name that begins with .wh. deletes a file of the layers below",
            remedy="exclude the package, or take another version of it",
        )


def _control(name: str, content: bytes) -> Control:
    texts = {"control": "", "md5sums": ""}
    with tarfile.open(fileobj=_opened(name, content), mode="r|") as archive:
        for member in archive:
            key = member.name.removeprefix("./")
            if key in texts and (file := archive.extractfile(member)):
                texts[key] = file.read().decode()
    return Control(text=texts["control"], md5sums=texts["md5sums"])
