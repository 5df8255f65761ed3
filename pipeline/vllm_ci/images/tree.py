"""Runnable root file systems of images on this machine: layers unpacked once, trees made of hard links to their files.

What lies where is worked out in memory first (:mod:`vllm_ci.images.shape`), so that a directory of the tree is always one that
was made here: nothing is written through a link, whatever the layers hold. Links are written relative, so that nothing that
follows one ends outside the tree.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from vllm_ci.domain.errors import BuildError
from vllm_ci.domain.events import Emit, ignore, step
from vllm_ci.images import members, within
from vllm_ci.images.members import Kind
from vllm_ci.images.shape import Folder, Leaf, Shape
from vllm_ci.images.spec_file import host_platform
from vllm_ci.images.store import Store, disk, image_config, image_manifest

# Part of the names of unpacked layers and trees: bumped when they are made in another way.
_FORMAT = 2
UNPACKED = 3
"""Estimate of the unpacked size of a layer or wheel, as a multiple of its compressed size."""


@contextmanager
def in_use(digest: str, *, platform: str = "", store: Store | None = None, emit: Emit = ignore) -> Iterator[Path]:
    """Like :func:`materialise`; neither tree nor image is pruned as long as the context lasts."""
    store = store or Store()
    with ExitStack() as stack:
        with store.in_use():
            path = materialise(digest, platform=platform, store=store, emit=emit)
            stack.enter_context(store.tree_in_use(path.name))
        yield path


def materialise(digest: str, *, platform: str = "", store: Store | None = None, emit: Emit = ignore) -> Path:
    """Root file system of the image with ``digest`` (a manifest, or an index and ``platform``), made when it is not there.

    Its files are read-only and shared with other trees: what runs in it must write elsewhere. Devices, pipes and set-user-ID
    bits are left out. Nothing is pruned meanwhile, but afterwards; see :func:`in_use`.

    Raises:
        BuildError: The image is not in the store, its layers cannot be unpacked, or the disk is full.
    """
    store = store or Store()
    with store.in_use():
        return _materialised(digest, platform, store, emit)


def _materialised(digest: str, platform: str, store: Store, emit: Emit) -> Path:
    platform = platform or host_platform()
    manifest = image_manifest(digest, platform=platform, store=store)
    diff_ids = image_config(digest, platform=platform, store=store)["rootfs"]["diff_ids"]
    name = tree_name(manifest["config"]["digest"])
    layers = list(zip(diff_ids, manifest["layers"], strict=True))
    # What was used lately is not pruned.
    for each in (name, *(layer_name(diff_id) for diff_id in diff_ids)):
        touch(store.trees / each)

    def fill(part: Path) -> None:
        there = sum((store.trees / layer_name(diff_id)).is_dir() for diff_id in diff_ids)
        with step(emit, "unpack", "files of the image, to run it without a container") as done:
            with ThreadPoolExecutor(4, thread_name_prefix="unpack") as pool:
                contents = list(pool.map(lambda item: unpacked(store, *item), layers))
            shape = Shape()
            for diff_id, layer in layers:
                shape.apply(members.of_layer(store, layer, diff_id), name=layer["digest"])
            write(shape, part, contents)
            done(f"{there} of {len(layers)} layers were unpacked already")

    return _once(store, name, fill, needed_bytes=0)


def layer_name(diff_id: str) -> str:
    """Name of an unpacked layer among the trees."""
    return f"layer-{diff_id.removeprefix('sha256:')[:32]}-{_FORMAT}"


def tree_name(config_digest: str) -> str:
    """Name of an image's tree among the trees."""
    return f"image-{config_digest.removeprefix('sha256:')[:32]}-{_FORMAT}"


def touch(path: Path) -> None:
    """Mark as used now, if it is there."""
    with suppress(FileNotFoundError):
        os.utime(path)


def unpacked(store: Store, diff_id: str, layer: dict[str, Any]) -> Path:
    """A directory with the files of a layer, each under the number of its member."""

    def fill(part: Path) -> None:
        found = os.open(part, os.O_RDONLY | os.O_DIRECTORY)
        try:
            members.read(store.blob(layer["digest"]), diff_id=diff_id, contents=found)
        finally:
            os.close(found)

    return _once(store, layer_name(diff_id), fill, needed_bytes=UNPACKED * int(layer["size"]))


def _once(store: Store, name: str, fill: Callable[[Path], None], *, needed_bytes: int) -> Path:
    """The folder ``name`` among the trees, filled by the first process, and visible only when it is complete."""
    target = store.trees / name
    if target.is_dir():
        return target
    with store.lock(name):
        if target.is_dir():
            return target
        with new_part(store) as part:
            with disk(target, needed_bytes=needed_bytes):
                fill(part)
            keep(part, target)
    return target


@contextmanager
def new_part(store: Store) -> Iterator[Path]:
    """An empty directory among the trees, to become one of them; it is removed at the end unless it was kept."""
    store.trees.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=store.trees, prefix=".part-"))
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def keep(part: Path, target: Path) -> None:
    """Make a complete part visible."""
    part.chmod(0o755)
    part.rename(target)


def write(shape: Shape, root: Path, contents: Sequence[Path], *, inward: bool = True) -> None:
    """Write a file system into the empty directory ``root``.

    Args:
        shape: What to write.
        root: Where.
        contents: The files of each layer by the numbers of their members; they are linked.
        inward: Write links so that they cannot leave ``root``; else as they are.

    Raises:
        BuildError: A name or a link is longer than this file system takes.
    """
    with ExitStack() as stack:
        opened = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (root, *contents)]
        for handle in opened:
            stack.callback(os.close, handle)
        writer = _Writer(shape, opened[0], opened[1:], inward=inward)
        # The kernel links without Python's lock, and names relative to open directories spare it walking ten of them each time.
        pool = stack.enter_context(ThreadPoolExecutor(4, thread_name_prefix="link"))
        level = [("", shape.root)]
        while level:
            level = [item for found in pool.map(lambda item: writer.folder(*item), level) for item in found]


class _Writer:
    def __init__(self, shape: Shape, root: int, contents: list[int], *, inward: bool) -> None:
        self._shape, self._root, self._contents, self._inward = shape, root, contents, inward

    def folder(self, path: str, folder: Folder) -> list[tuple[str, Folder]]:
        """Write what is in a directory; the directories in it, which are still empty."""
        inner: list[tuple[str, Folder]] = []
        with within.directory(self._root, path) as here:
            for name, node in folder.entries.items():
                try:
                    if isinstance(node, Folder):
                        os.mkdir(name, dir_fd=here)
                        inner.append((f"{path}/{name}" if path else name, node))
                    else:
                        self._leaf(path, name, node, here)
                except OSError as error:
                    if error.errno != errno.ENAMETOOLONG:
                        raise
                    raise BuildError(
                        f"/{path}/{name[:40]}... of the image cannot be unpacked",
                        why="its name, or the target of the link, is longer than the file system here takes",
                        remedy="run it with an engine with containers (--engine dagger)",
                    ) from error
        return inner

    def _leaf(self, path: str, name: str, node: Leaf, here: int) -> None:
        if node.member.kind is Kind.LINK:
            link = node.member.link
            os.symlink(self._shape.inward(path, link) if self._inward else link, name, dir_fd=here)
        elif node.member.kind is Kind.FILE:
            source, number = self._contents[node.source], str(node.number)
            try:
                os.link(number, name, src_dir_fd=source, dst_dir_fd=here, follow_symlinks=False)
            except OSError as error:
                if error.errno != errno.EMLINK:
                    raise
                _copy(number, name, source, here)


def _copy(number: str, name: str, source: int, here: int) -> None:
    """For a file that has as many names as its file system allows."""
    there = os.open(number, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=source)
    with os.fdopen(there, "rb") as old:
        new = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=here)
        with os.fdopen(new, "wb") as output:
            shutil.copyfileobj(old, output)
            os.fchmod(new, os.fstat(there).st_mode & 0o777)
