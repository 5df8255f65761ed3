"""The cache folder: content-addressed, shared by concurrent builders, consistent after a kill at any moment.

Everything appears by rename of a finished, synced temporary file or folder; whoever makes something holds the lock of its key.

=================== =========================================================================================
``images/``         an OCI image layout: ``blobs/sha256/*``, ``index.json`` with the images built here
``layers/``         layer key -> what the layer is
``files/``          layer digest -> which files of which wheel it holds
``members/``        layer digest -> what lies in its tar, ours and those of ``base.image``
``materials/``      image digest -> what the image is made of
``wheels/``         downloaded wheels by hash
``debs/``           downloaded Debian packages by hash
``bytecode/``       compiled files, packed by wheel or single
``trees/``          files of unpacked layers by number, and image trees made of hard links to them
``launchers/``      what starts the Python of those trees
``torchinductor/``  kernels that torch compiled in servers that run from those trees
=================== =========================================================================================
"""

from __future__ import annotations

import ctypes
import errno
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, cast

from vllm_ci.domain.errors import BuildError
from vllm_ci.registry.layout import REF_NAME, Layout
from vllm_ci.system.filelock import LockedError, hold, holders, take
from vllm_ci.system.home import home

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


@contextmanager
def disk(path: Path, *, needed_bytes: int = 0) -> Iterator[None]:
    """Turn a full disk into an error that says how much is needed."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        need = f"about {needed_bytes / 1e9:.1f} GB more" if needed_bytes else "more space"
        raise BuildError(
            f"the disk that holds {path} is full",
            why=f"{free_bytes(path) / 1e9:.1f} GB are free, {need} is needed; no partial files were kept",
            remedy="free some space, run vllm-ci cache prune, or set VLLM_CI_HOME to a folder on a larger disk",
        ) from error


def free_bytes(path: Path) -> int:
    """Bytes that are free on the disk that holds ``path`` or its nearest existing parent."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def room_for(path: Path, needed_bytes: int, *, what: str) -> None:
    """Refuse early what would fill the disk.

    Raises:
        BuildError: Less is free than needed.
    """
    if (free := free_bytes(path)) < needed_bytes:
        raise BuildError(
            f"{what} need {needed_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free at {path}",
            remedy="free some space, run vllm-ci cache prune, or set VLLM_CI_HOME to a folder on a larger disk",
        )


def start_writing(handle: int, offset: int, size: int) -> None:
    """Ask the kernel to begin writing a range to the disk, so that the sync at the end finds little left; Linux only."""
    if (call := _sync_file_range()) is not None:
        call(handle, offset, size, 2)  # SYNC_FILE_RANGE_WRITE: begins, does not wait


@functools.cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is None:
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return cast("Callable[[int, int, int, int], int]", function)


def publish(part: Path, target: Path) -> None:
    """Make the finished file ``part`` appear as ``target``, for ever or not at all."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
    sync_folder(target.parent)


def sync_folder(path: Path) -> None:
    """Make renames in ``path`` survive a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def appearing(target: Path, *, durable: bool = True, mode: int = 0o644) -> Iterator[Path]:
    """A new file beside ``target`` that becomes ``target`` when the context ends well, and is gone when it does not."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".part-")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(mode)
        if durable:
            publish(part, target)
        else:
            part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write(target: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a small file in one step.

    What is only a record of what could be found out again need not be ``durable``: a power cut may then lose or empty it (which
    readers notice), and a small build is spared a dozen waits for the disk.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with disk(target, needed_bytes=len(content)), appearing(target, durable=durable) as part:
        part.write_bytes(content)


def canonical(value: object) -> bytes:
    """JSON that is the same for the same value: sorted, without spaces; names that are not UTF-8 survive ``json.loads``."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


class Store:
    """The folders under ``VLLM_CI_HOME`` that the builder uses."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or home()
        self.layout = self.root / "images"
        self.images = Layout(self.layout)
        self.blobs = self.layout / "blobs" / "sha256"
        self.wheels = self.root / "wheels"
        self.debs = self.root / "debs"
        self.bytecode = self.root / "bytecode"
        self.trees = self.root / "trees"

    def lock(self, key: str) -> AbstractContextManager[None]:
        """Context in which this builder alone works on ``key``."""
        return hold(self.root / "locks" / key)

    def in_use(self) -> AbstractContextManager[None]:
        """Context in which nothing of the store is pruned; many may be in it at once."""
        return hold(self.root / "locks" / "prune", shared=True)

    def alone(
        self, *, timeout_s: float | None = None, waiting: Callable[[list[str]], None] | None = None
    ) -> AbstractContextManager[None]:
        """Context in which only pruning may use the store; see :func:`vllm_ci.system.filelock.hold`."""
        return hold(self.root / "locks" / "prune", timeout_s=timeout_s, waiting=waiting)

    def tree_in_use(self, name: str) -> AbstractContextManager[None]:
        """Context in which the tree ``name`` and its image are not pruned."""
        return hold(self._tree_lock(name), shared=True)

    def tree_handle(self, name: str) -> int:
        """Descriptor that keeps the tree ``name`` and its image from being pruned until every process has closed it."""
        return take(self._tree_lock(name), shared=True)

    def users_of_tree(self, name: str) -> list[str]:
        """Processes that use the tree ``name``; for the holder of :meth:`alone`, since any other answer may be old."""
        path = self._tree_lock(name)
        if not path.exists():
            return []
        try:
            with hold(path, timeout_s=0):
                path.unlink()
        except LockedError:
            return holders(path) or ["another process"]
        return []

    def _tree_lock(self, name: str) -> Path:
        return self.root / "locks" / f"use-{name}"

    def prepare(self) -> None:
        """Make the layout one."""
        self.images.prepare()

    def blob(self, digest: str) -> Path:
        """Where the blob with ``digest`` lies, or would."""
        return self.blobs / digest.removeprefix("sha256:")

    def read(self, digest: str) -> bytes:
        """Content of a blob.

        Raises:
            BuildError: It is not here.
        """
        try:
            return self.blob(digest).read_bytes()
        except FileNotFoundError as error:
            raise BuildError(f"{digest} is not in {self.layout}", remedy="build the image again: vllm-ci build") from error

    def add(self, content: bytes) -> str:
        """Keep a small blob; its digest."""
        with disk(self.layout, needed_bytes=len(content)):
            return self.images.add(content)

    def record(self, kind: str, key: str) -> Any:
        """What was kept under ``key``, or ``None``."""
        try:
            return json.loads((self.root / kind / f"{key}.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def keep(self, kind: str, key: str, value: object) -> None:
        """Keep ``value`` (JSON) under ``key``."""
        write(self.root / kind / f"{key}.json", canonical(value), durable=False)

    def index(self) -> list[dict[str, Any]]:
        """Descriptors of the images built here, each with its name."""
        return self.images.index()

    def keep_only(self, manifests: list[dict[str, Any]]) -> None:
        """Remove all other images from the index."""
        with self.images.changing_index() as entries:
            entries[:] = manifests

    def tag(self, descriptor: dict[str, Any], names: tuple[str, ...]) -> None:
        """Name an image in the layout's index; a name that was another image's moves.

        Format: OCI image specification, image layout, ``index.json``.
        """
        with disk(self.layout), self.images.changing_index() as entries:
            wanted = [{**descriptor, "annotations": {**descriptor.get("annotations", {}), REF_NAME: name}} for name in names]
            kept = [item for item in entries if item.get("annotations", {}).get(REF_NAME) not in names]
            entries[:] = kept + wanted


def image_manifest(digest: str, *, platform: str = "", store: Store | None = None) -> dict[str, Any]:
    """The manifest with ``digest``; of an index, the one for ``platform``.

    Raises:
        BuildError: It is not here, or the index has no such platform.
    """
    store = store or Store()
    manifest: dict[str, Any] = json.loads(store.read(digest))
    if "manifests" not in manifest:
        return manifest
    for item in manifest["manifests"]:
        found = item.get("platform", {})
        if f"{found.get('os')}/{found.get('architecture')}" == platform:
            return image_manifest(item["digest"], store=store)
    raise BuildError(f"{digest} has no image for {platform or 'an unnamed platform'}", remedy="build it with --platform")


def image_config(digest: str, *, platform: str = "", store: Store | None = None) -> dict[str, Any]:
    """OCI image config of the image with ``digest`` (its ``config`` key has Env, Entrypoint, Labels ...)."""
    store = store or Store()
    config: dict[str, Any] = json.loads(store.read(image_manifest(digest, platform=platform, store=store)["config"]["digest"]))
    return config
