"""Runnable root file systems of images on this machine: layers unpacked once, trees made of hard links to them."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

from vllm_ci.domain.errors import BuildError
from vllm_ci.images.spec import host_platform
from vllm_ci.images.store import Store, disk, image_config, image_manifest

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
_CHUNK = 1 << 20


def materialise(digest: str, *, platform: str = "", store: Store | None = None) -> Path:
    """Root file system of the image with ``digest`` (a manifest, or an index and ``platform``), made when it is not there.

    Its files are read-only and shared with other trees: what runs in it must write elsewhere.

    Raises:
        BuildError: The image is not in the store, or the disk is full.
    """
    store = store or Store()
    platform = platform or host_platform()
    manifest = image_manifest(digest, platform=platform, store=store)
    diff_ids = image_config(digest, platform=platform, store=store)["rootfs"]["diff_ids"]
    name = f"image-{manifest['config']['digest'].removeprefix('sha256:')[:32]}"
    layers = list(zip(diff_ids, manifest["layers"], strict=True))
    # What was used lately is not pruned.
    for each in (name, *(layer_name(diff_id) for diff_id in diff_ids)):
        touch(store.trees / each)

    def fill(part: Path) -> None:
        with ThreadPoolExecutor(4, thread_name_prefix="unpack") as pool:
            folders = list(pool.map(lambda item: unpacked(store, *item), layers))
        for folder in folders:
            link(folder, part)

    return _once(store, name, fill, needed_bytes=0)


def layer_name(diff_id: str) -> str:
    """Name of an unpacked layer among the trees."""
    return f"layer-{diff_id.removeprefix('sha256:')[:32]}"


def touch(path: Path) -> None:
    """Mark as used now, if it is there."""
    with suppress(FileNotFoundError):
        os.utime(path)


def unpacked(store: Store, diff_id: str, descriptor: dict[str, Any]) -> Path:
    """A layer's content as a folder, whiteouts included as the files that they are in the tar."""

    def fill(part: Path) -> None:
        _extract(store.blob(descriptor["digest"]), part)

    return _once(store, layer_name(diff_id), fill, needed_bytes=3 * int(descriptor["size"]))


def _once(store: Store, name: str, fill: Callable[[Path], None], *, needed_bytes: int) -> Path:
    """The folder ``name`` among the trees, filled by whoever comes first, and there only when it is complete."""
    target = store.trees / name
    if target.is_dir():
        return target
    with store.lock(name):
        if target.is_dir():
            return target
        store.trees.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=store.trees, prefix=".part-"))
        try:
            with disk(target, needed_bytes=needed_bytes):
                fill(part)
            part.chmod(0o755)
            part.rename(target)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    return target


@contextmanager
def tar_stream(blob: Path) -> Iterator[tarfile.TarFile]:
    """The tar in a layer blob, whatever it is compressed with.

    Raises:
        BuildError: It is not here, or no tar.
    """
    try:
        with blob.open("rb") as file:
            magic = file.read(4)
            file.seek(0)
            with tarfile.open(fileobj=_plain(file, magic), mode="r|", bufsize=_CHUNK) as archive:
                yield archive
    except FileNotFoundError as error:
        raise BuildError(f"a layer is missing: {blob.name[:12]}", remedy="build the image again: vllm-ci build") from error
    except tarfile.TarError as error:
        raise BuildError(
            f"layer {blob.name[:12]} is damaged", why=str(error), remedy="vllm-ci cache prune, then build again"
        ) from error


def _plain(file: IO[bytes], magic: bytes) -> IO[bytes]:
    if magic.startswith(b"\x1f\x8b"):
        from isal import igzip

        return cast("IO[bytes]", igzip.IGzipFile(fileobj=file, mode="rb"))  # type: ignore[no-untyped-call]
    if magic == b"\x28\xb5\x2f\xfd":
        import zstandard

        return cast("IO[bytes]", zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))
    return file


def _extract(blob: Path, root: Path) -> None:
    with tar_stream(blob) as archive:
        for member in archive:
            name = member.name.strip("/")
            if not name or ".." in name.split("/"):
                continue
            target = root / name
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if member.issym():
                target.symlink_to(member.linkname)
            elif member.islnk():
                os.link(root / member.linkname.strip("/"), target)
            elif member.isfile():
                _extract_file(archive, member, target)


def _extract_file(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    source = archive.extractfile(member)
    assert source is not None  # noqa: S101
    mode = 0o555 if member.mode & 0o111 else 0o444
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb", buffering=0) as output:
        while piece := source.read(_CHUNK):
            output.write(piece)
        os.fchmod(handle, mode)


def link(layer: Path, root: Path) -> None:
    """Apply an unpacked layer to a tree (OCI image specification, "Applying Changesets")."""
    folders = _fold(layer, root)
    # The kernel links without Python's lock, and names relative to open folders spare it walking ten of them for each file.
    with ThreadPoolExecutor(4, thread_name_prefix="link") as pool:
        list(pool.map(lambda below: _link_folder(layer / below, root / below), folders))


def _fold(layer: Path, root: Path) -> list[str]:
    """Make a layer's folders and take away what it takes away; the folders that hold files."""
    pending, filled = [""], []
    while pending:
        below = pending.pop()
        files = False
        with os.scandir(layer / below) as found:
            inner = []
            for entry in found:
                path = f"{below}/{entry.name}" if below else entry.name
                if entry.name.startswith(WHITEOUT):
                    _remove(root / below, entry.name)
                elif entry.is_dir(follow_symlinks=False):
                    inner.append(path)
                else:
                    files = True
        for path in inner:
            _make_folder(root / path)
        pending += inner
        if files:
            filled.append(below)
    return filled


def _link_folder(source: Path, target: Path) -> None:
    there, here = os.open(source, os.O_RDONLY), os.open(target, os.O_RDONLY)
    try:
        with os.scandir(there) as found:
            for entry in found:
                if not entry.is_dir(follow_symlinks=False) and not entry.name.startswith(WHITEOUT):
                    _link_file(entry, there, here, target)
    finally:
        os.close(there)
        os.close(here)


def _remove(folder: Path, whiteout: str) -> None:
    victims = list(folder.iterdir()) if whiteout == OPAQUE else [folder / whiteout.removeprefix(WHITEOUT)]
    for victim in victims:
        if victim.is_dir() and not victim.is_symlink():
            shutil.rmtree(victim)
        else:
            victim.unlink(missing_ok=True)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir()
    except FileExistsError:
        if not path.is_dir():
            path.unlink()
            path.mkdir()


def _link_file(entry: os.DirEntry[str], there: int, here: int, folder: Path) -> None:
    name = entry.name
    try:
        if entry.is_symlink():
            os.symlink(os.readlink(name, dir_fd=there), name, dir_fd=here)
        else:
            os.link(name, name, src_dir_fd=there, dst_dir_fd=here)
    except FileExistsError:
        taken = folder / name
        if taken.is_dir() and not taken.is_symlink():
            shutil.rmtree(taken)
        else:
            taken.unlink()
        _link_file(entry, there, here, folder)
