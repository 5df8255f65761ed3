"""Debian packages, unpacked without dpkg and without running anything of theirs (deb(5))."""

from __future__ import annotations

import io
import lzma
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from vllm_ci.domain.errors import BuildError
from vllm_ci.domain.paths import whiteout

_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


@dataclass(frozen=True, kw_only=True)
class Control:
    """What a package says of itself.

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


def unpack(path: Path, root: Path) -> Control:
    """Unpack a package's files below ``root``; folders, files and links, nothing else; what it says of itself."""
    control = Control(text="", md5sums="")
    for name, content in _members(path):
        if name.startswith("control.tar"):
            control = _control(name, content)
        elif name.startswith("data.tar"):
            with tarfile.open(fileobj=_opened(name, content), mode="r|") as archive:
                for member in archive:
                    _refuse_whiteout(path, member.name)
                    _place(archive, member, root)
    return control


def _refuse_whiteout(path: Path, name: str) -> None:
    if part := whiteout(name):
        raise BuildError(
            f"{path.name}: {name} holds {part} in its name",
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


def _place(archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path) -> None:
    name = merged(member.name)
    if not name or ".." in name.split("/"):
        return
    target = root / name
    if member.isdir():
        if not target.is_symlink():
            target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    if member.issym():
        target.symlink_to(member.linkname)
    elif member.islnk():
        # A copy: the layers know no hard links, and files of a package are seldom linked.
        target.write_bytes((root / merged(member.linkname)).read_bytes())
        target.chmod(0o755 if member.mode & 0o111 else 0o644)
    elif member.isfile() and (file := archive.extractfile(member)):
        with target.open("wb") as output:
            while piece := file.read(1 << 20):
                output.write(piece)
        target.chmod(0o755 if member.mode & 0o111 else 0o644)
