"""Reads the members of a layer's tar: names are normalised, whiteouts recognised, nothing is dropped silently.

Format: OCI image specification 1.1, "Image Layer Filesystem Changeset". Names that tools place in different ways (``..``) are
refused.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from vllm_ci.domain.errors import BuildError
from vllm_ci.images.entries import Entry
from vllm_ci.images.store import Store
from vllm_ci.images.stream import tar_stream

WHITEOUT = ".wh."
# AUFS' own bookkeeping (.wh..wh.aufs, .wh..wh.plnk), which no engine unpacks, and the mark that empties a directory.
_META = ".wh..wh."
OPAQUE = ".wh..wh..opq"
# PATH_MAX and NAME_MAX of Linux: no engine can make what is longer.
_PATH_BYTES, _NAME_BYTES = 4095, 255
_CHUNK = 1 << 20


class Kind(StrEnum):
    """What a member is."""

    FOLDER = "d"
    FILE = "f"
    LINK = "l"
    HARD_LINK = "h"
    WHITEOUT = "w"
    OPAQUE = "q"
    OTHER = "o"  # devices, pipes: they replace what lies at their path, and are not made here
    NOTHING = "-"  # the root itself, AUFS' bookkeeping


class Member(NamedTuple):
    """A member of a layer.

    Attributes:
        kind: What it is.
        path: Where it lies: plain, without a slash in front; of a whiteout, what it takes away.
        link: Target of a link as written; of a hard link, a plain path.
        executable: Somebody may execute it.
        digest: Hex sha256 of a file's content, where it was read from a tar.
    """

    kind: Kind
    path: str = ""
    link: str = ""
    executable: bool = False
    digest: str = ""


def of_layer(store: Store, layer: dict[str, Any], diff_id: str = "") -> list[Member]:
    """Members of a layer by its descriptor, in the order of its tar; read from its own tar once and then known.

    Raises:
        BuildError: Its blob is not here, is damaged, or holds what must not be unpacked.
    """
    name = str(layer["digest"]).removeprefix("sha256:")
    if (found := kept(store, layer["digest"])) is not None:
        return found
    # The builder knows its own files by the hashes of their wheels.
    hashed = not (store.root / "files" / f"{name}.json").exists()
    members = read(store.blob(layer["digest"]), diff_id=diff_id, hashed=hashed)
    keep(store, name, members)
    return members


def kept(store: Store, digest: str) -> list[Member] | None:
    """Members of a layer that is known."""
    rows = store.record("members", digest.removeprefix("sha256:"))
    return None if rows is None else [Member(Kind(row[0]), *row[1:]) for row in rows]


def known(store: Store, digest: str) -> bool:
    """Whether a layer's members are known."""
    return (store.root / "members" / f"{digest.removeprefix('sha256:')}.json").exists()


def keep(store: Store, digest: str, members: Iterable[Member]) -> None:
    """Make a layer known."""
    store.keep("members", digest.removeprefix("sha256:"), [_row(member) for member in members])


def _row(member: Member) -> list[object]:
    """Without the defaults at its end: most members of a layer are plain files."""
    row = list(member)
    while not row[-1]:
        row.pop()
    return row


def shape(members: Iterable[Member]) -> str:
    """Hash of all but the files' content."""
    found = hashlib.sha256()
    for member in members:
        found.update("\0".join((*member[:3], "")).encode("utf-8", "surrogateescape"))
    return found.hexdigest()


def of_entries(entries: Iterable[Entry]) -> list[Member]:
    """Members of a layer that was written from ``entries``."""
    return [_of_entry(entry) for entry in entries]


def _of_entry(entry: Entry) -> Member:
    if entry.folder:
        return Member(Kind.FOLDER, entry.path)
    if entry.content is None:
        return Member(Kind.LINK, entry.path, entry.link)
    try:
        kind, path = named(entry.path)
    except ValueError as error:
        raise BuildError(f"/{entry.path} cannot go into an image: it {error}", remedy="give the file another name") from error
    return Member(kind, path, "", executable=kind is Kind.FILE and bool(entry.mode & 0o111))


def read(blob: Path, *, diff_id: str = "", contents: int | None = None, hashed: bool = False) -> list[Member]:
    """Members of the tar in a layer blob.

    Args:
        blob: The layer, compressed or not.
        diff_id: What the tar has to hash to, if that is known.
        contents: Descriptor of an empty directory that gets the files, each under the number of its member: no name of
            the tar is ever a path here.
        hashed: Give files their digests.

    Raises:
        BuildError: The blob is not here, is damaged, or holds what must not be unpacked.
    """
    with tar_stream(blob, diff_id=diff_id) as archive:
        return read_archive(archive, f"layer {blob.name[:12]}", contents=contents, hashed=hashed)


def read_archive(archive: tarfile.TarFile, name: str, *, contents: int | None = None, hashed: bool = False) -> list[Member]:
    """As :func:`read`, of an open archive; ``name`` is what messages call it."""
    found = []
    for number, info in enumerate(archive):
        member = _of_info(info, name)
        if member.kind is Kind.FILE and hashed:
            member = member._replace(digest=_hashed(archive, info))
        elif member.kind is Kind.FILE and contents is not None:
            _extract(archive, info, contents, str(number), executable=member.executable)
        found.append(member)
    return found


def _of_info(info: tarfile.TarInfo, archive: str) -> Member:
    try:
        kind, path = named(info.name)
        if kind is not Kind.FILE:
            return Member(kind, path)
        if info.isdir():
            return Member(Kind.FOLDER if path else Kind.NOTHING, path)
        _check_not_root(path)
        if info.issym():
            return Member(Kind.LINK, path, _target(info.linkname))
        if info.islnk():
            return Member(Kind.HARD_LINK, path, plain(info.linkname))
    except ValueError as error:
        raise BuildError(
            f"{archive} holds {info.name!r}, which cannot be unpacked",
            why=f"its name or target {error}; tools differ on where such a file goes, or use it to write outside the image",
            remedy="do not use this image; have its maker build it again with a current tool",
        ) from error
    if info.isfile():
        return Member(Kind.FILE, path, "", executable=bool(info.mode & 0o111))
    return Member(Kind.OTHER, path)


def _check_not_root(path: str) -> None:
    if not path:
        raise ValueError("is that of the root, which is a directory")


def _target(link: str) -> str:
    if not link or "\0" in link or len(os.fsencode(link)) > _PATH_BYTES:
        raise ValueError("is empty, holds a zero byte, or is longer than Linux takes")
    return link


def named(name: str) -> tuple[Kind, str]:
    """Kind and plain path by the name of a member: a whiteout's is that of what it takes away, ``FILE`` stands for the rest.

    Raises:
        ValueError: No tool should place this.
    """
    path = plain(name)
    if WHITEOUT not in path:
        return Kind.FILE, path
    folder, _, last = path.rpartition("/")
    parts = path.split("/")
    if last == OPAQUE and not any(part.startswith(WHITEOUT) for part in parts[:-1]):
        return Kind.OPAQUE, folder
    if any(part.startswith(_META) for part in parts):
        return Kind.NOTHING, path
    if any(part.startswith(WHITEOUT) for part in parts[:-1]):
        raise ValueError("lies below a whiteout")
    if not last.startswith(WHITEOUT):
        return Kind.FILE, path
    if (victim := last.removeprefix(WHITEOUT)) in {"", ".", ".."}:
        raise ValueError("is a whiteout of no file")
    return Kind.WHITEOUT, f"{folder}/{victim}".lstrip("/")


def plain(name: str) -> str:
    """A path without empty components, ``.`` and slashes at its ends.

    Raises:
        ValueError: It has ``..``, or is longer than Linux takes.
    """
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if "\0" in name:
        raise ValueError("holds a zero byte")
    if ".." in parts:
        raise ValueError("has '..' in its path")
    path = "/".join(parts)
    if len(path) > _NAME_BYTES:
        if len(os.fsencode(path)) > _PATH_BYTES:
            raise ValueError(f"is longer than {_PATH_BYTES} bytes")
        if any(len(os.fsencode(part)) > _NAME_BYTES for part in parts):
            raise ValueError(f"has a component of more than {_NAME_BYTES} bytes")
    return path


def _pieces(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[bytes]:
    source = archive.extractfile(info)
    assert source is not None  # noqa: S101
    while piece := source.read(_CHUNK):
        yield piece


def _hashed(archive: tarfile.TarFile, info: tarfile.TarInfo) -> str:
    found = hashlib.sha256()
    for piece in _pieces(archive, info):
        found.update(piece)
    return found.hexdigest()


def _extract(archive: tarfile.TarFile, info: tarfile.TarInfo, folder: int, name: str, *, executable: bool) -> None:
    with new_file(folder, name, executable=executable) as output:
        for piece in _pieces(archive, info):
            output.write(piece)


@contextmanager
def new_file(folder: int, name: str, *, executable: bool) -> Iterator[BinaryIO]:
    """Create a file of an unpacked layer in the directory with the descriptor ``folder``, to write its content.

    Set-user-ID bits and owners are left behind on purpose: nothing runs as another user here.
    """
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    with os.fdopen(handle, "wb", buffering=0) as output:
        yield output
        os.fchmod(handle, 0o555 if executable else 0o444)
