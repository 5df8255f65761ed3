"""Git LFS: a commit contains pointers, the files are in a store beside git's objects (git-lfs, docs/spec.md)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vllm_ci.domain.errors import ConfigError
from vllm_ci.images.entries import CHUNK, OnDisk
from vllm_ci.system.vcs import GitError, git

_LIMIT = 1024
# First line is the version, the rest is sorted by key; "ext-" lines name extensions (docs/spec.md, "The Pointer").
_POINTER = re.compile(
    rb"version https://(?:git-lfs\.github\.com|hawser\.github\.com)/spec/v1\n"
    rb"(?:ext-[0-9]-[a-z0-9.-]+ sha256:[0-9a-f]{64}\n)*"
    rb"oid sha256:(?P<oid>[0-9a-f]{64})\nsize (?P<size>[0-9]+)\n"
)
_VERSIONS = (b"version https://git-lfs.github.com/", b"version https://hawser.github.com/")


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """What a pointer says: hex sha256 of the file, and its size in bytes."""

    oid: str
    size_bytes: int


def pointer(data: bytes) -> Pointer | None:
    """The pointer that a file is, to the letter of the format; ``None`` for any other file."""
    match = _POINTER.fullmatch(data) if len(data) < _LIMIT else None
    return Pointer(oid=match["oid"].decode(), size_bytes=int(match["size"])) if match else None


def resembles(data: bytes) -> bool:
    """Whether a file starts as a pointer does; whether it is one, its attributes say."""
    return len(data) < _LIMIT and data.startswith(_VERSIONS)


def is_filtered(source: Path, path: str) -> bool:
    """Whether git's attributes give a file to Git LFS."""
    fields = git("check-attr", "-z", "filter", "--", path, cwd=source).split(b"\0")
    return len(fields) > 2 and fields[2] == b"lfs"


def stored(source: Path, path: str, found: Pointer, *, scan: Callable[[bytes], None]) -> OnDisk:
    """The file that a pointer stands for, out of the store of this clone.

    Args:
        source: A directory of the checkout.
        path: Of the pointer, for messages.
        found: The pointer.
        scan: Shown the whole content, in overlapping pieces.

    Raises:
        ConfigError: It is not there, or not what the pointer says.
    """
    place = _store(source) / found.oid[:2] / found.oid[2:4] / found.oid
    if not place.is_file():
        raise ConfigError(
            f"{path} is a Git LFS pointer, and its file is not in this clone",
            why=f"the image would contain the pointer instead of {found.size_bytes:,} bytes",
            remedy="run git lfs pull (or git lfs fetch) there and build again, or add the file to the overlay's exclude",
        )
    if place.stat().st_size != found.size_bytes or _digest(place, scan) != found.oid:
        raise ConfigError(
            f"{path}: the file of its Git LFS pointer is damaged",
            why=f"{place} does not match the pointer",
            remedy=f"delete {place}, then git lfs fetch",
        )
    return OnDisk(place, found.size_bytes)


def _digest(place: Path, scan: Callable[[bytes], None]) -> str:
    digest, rest = hashlib.sha256(), b""
    with place.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
            scan(rest + piece)
            rest = piece[-4096:]
    return digest.hexdigest()


def _store(source: Path) -> Path:
    common = source / git("rev-parse", "--git-common-dir", cwd=source).decode("utf-8", "surrogateescape").rstrip("\n")
    try:
        named = git("config", "--get", "lfs.storage", cwd=source).decode("utf-8", "surrogateescape").rstrip("\n")
    except GitError:
        named = "lfs"
    return common / named / "objects"
