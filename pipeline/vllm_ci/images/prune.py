"""What is in the cache, and what can be deleted: by reachability from the images built here, by age, by size."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm_ci.domain.errors import BuildError
from vllm_ci.images import oci
from vllm_ci.images.store import Store, image_config
from vllm_ci.images.tree import layer_name, tree_name
from vllm_ci.registry.layout import REF_NAME
from vllm_ci.system.filelock import LockedError
from vllm_ci.system.home import KERNELS, LAUNCHERS

_DAY_S = 86400.0
# What is written right now without a lock (a record, a tree that is unpacked) is younger.
_HALF_WRITTEN_S = 900.0


@dataclass(frozen=True, kw_only=True)
class CacheKind:
    """One kind of thing in the cache.

    Attributes:
        name: ``images``, ``wheels`` ...
        count: Number of images, files or trees.
        size_bytes: On disk; trees share files with each other, and each file counts once.
    """

    name: str
    count: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class PrunedCache:
    """What was, or would be, deleted.

    Attributes:
        images: Names of images.
        paths: Files and folders.
        freed_bytes: Their size on disk.
        in_use: Trees that a run or a server uses, with its processes; they and their images stay, however old.
    """

    images: tuple[str, ...]
    paths: tuple[Path, ...]
    freed_bytes: int
    in_use: Mapping[str, list[str]] = field(default_factory=dict)


def show(store: Store) -> tuple[CacheKind, ...]:
    """What is in the cache; waits while it is pruned."""
    with store.in_use():
        return (
            CacheKind(name="images", count=len(store.index()), size_bytes=_size(store.layout, set())),
            *(
                CacheKind(name=name, count=sum(1 for _ in _things(store, name)), size_bytes=_size(store.root / name, set()))
                for name in ("wheels", "debs", "bytecode", "trees", "compiled", KERNELS)
            ),
        )


def sweep(store: Store) -> None:
    """Delete partial files of builders that were killed; skipped while another build runs."""
    before = time.time() - _HALF_WRITTEN_S
    with contextlib.suppress(LockedError), store.alone(timeout_s=0):
        for path in _leftovers(store):
            if path.lstat().st_mtime < before:
                _delete(path)


def prune(
    store: Store,
    *,
    older_than_days: float,
    max_bytes: int = 0,
    dry_run: bool = False,
    wait_s: float = 60.0,
    waiting: Callable[[list[str]], None] | None = None,
) -> PrunedCache:
    """Delete images not built for a while, then the least recently built ones until the rest fits, and all that nothing needs.

    Waits for builds that are under way. What runs and servers use stays.

    Args:
        store: Where.
        older_than_days: Images, wheels, trees ... that were used later than this stay.
        max_bytes: Blobs of images together; 0 for no limit.
        dry_run: Delete nothing.
        wait_s: Longest wait for builds in seconds.
        waiting: Called once with the processes that it waits for.

    Raises:
        LockedError: A build took longer.
    """
    with _alone(store, wait_s, waiting):
        since = time.time() - older_than_days * _DAY_S
        before = store.index()
        in_use = _in_use(store)
        kept = _kept(store, before, since, max_bytes, in_use)
        names = tuple(item["annotations"][REF_NAME] for item in before if item not in kept)
        paths = [*_unreachable(store, kept), *(path for path in _old(store, kept, since) if path.name not in in_use)]
        paths += _leftovers(store)
        if not in_use:
            paths += [path for path in _things(store, KERNELS) if _newest(path) < since]
        trees = {path.name for path in _things(store, "trees")} - {path.name for path in paths}
        paths += [path for path in _things(store, LAUNCHERS) if path.name.rpartition("-")[0] not in trees]
        seen: set[int] = set()
        freed = sum(_size(path, seen) for path in paths)
        if not dry_run:
            if len(kept) != len(before):
                store.keep_only(kept)
            for path in paths:
                _delete(path)
    return PrunedCache(images=names, paths=tuple(paths), freed_bytes=freed, in_use=in_use)


@contextlib.contextmanager
def _alone(store: Store, wait_s: float, waiting: Callable[[list[str]], None] | None) -> Iterator[None]:
    seen: list[str] = []

    def note(holders: list[str]) -> None:
        seen.extend(holders)
        if waiting is not None:
            waiting(holders)

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(store.alone(timeout_s=wait_s, waiting=note))
        except LockedError as error:
            raise LockedError(
                "the cache is in use, nothing was deleted",
                why=f"after {wait_s:g} s it was still used by {', '.join(seen) or 'another process'}",
                remedy="run it again when that process has ended, or wait longer: vllm-ci cache prune --wait SECONDS",
            ) from error
        yield


def _in_use(store: Store) -> dict[str, list[str]]:
    """Trees that processes use, by name."""
    found = {path.name: store.users_of_tree(path.name) for path in _things(store, "trees")}
    return {name: users for name, users in found.items() if users}


def _used(store: Store, item: dict[str, Any]) -> float:
    try:
        return store.blob(item["digest"]).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _kept(
    store: Store, items: list[dict[str, Any]], since: float, max_bytes: int, in_use: Collection[str]
) -> list[dict[str, Any]]:
    """Images that stay: those in use, then the most recently built ones; each blob counts once."""
    used = [item for item in items if in_use and not _trees(store, item).isdisjoint(in_use)]
    kept: list[dict[str, Any]] = []
    blobs: set[str] = set()
    size = 0
    for item in sorted(items, key=lambda item: (item not in used, -_used(store, item))):
        if _used(store, item) < since and item not in used:
            continue
        new = set(oci.reachable(store, item)) - blobs
        more = sum(store.blob(digest).stat().st_size for digest in new if store.blob(digest).exists())
        if kept and max_bytes and size + more > max_bytes and item not in used:
            continue
        kept.append(item)
        blobs |= new
        size += more
    return [item for item in items if item in kept]


def _unreachable(store: Store, kept: list[dict[str, Any]]) -> Iterator[Path]:
    reachable = {digest.removeprefix("sha256:") for item in kept for digest in oci.reachable(store, item)}
    if not store.blobs.is_dir():
        return
    yield from (path for path in store.blobs.iterdir() if path.name not in reachable and not path.name.startswith("."))
    for kind in ("files", "members", "materials"):
        yield from (path for path in (store.root / kind).glob("*.json") if path.stem not in reachable)
    for path in (store.root / "layers").glob("*.json"):
        if json.loads(path.read_bytes())["digest"].removeprefix("sha256:") not in reachable:
            yield path


def _old(store: Store, kept: list[dict[str, Any]], since: float) -> Iterator[Path]:
    """Files that can be fetched again and were not used lately; trees of images that are gone, unless used today."""
    wanted = set()
    for item in kept:
        for digest in _manifests(store, item):
            config = image_config(digest, store=store)
            wanted |= {layer_name(diff_id) for diff_id in config["rootfs"]["diff_ids"]}
            wanted.add(tree_name(json.loads(store.read(digest))["config"]["digest"]))
    today = time.time() - _DAY_S
    for path in _things(store, "trees"):
        used = path.stat().st_mtime
        if used < since or (path.name not in wanted and not path.name.startswith("debian-") and used < today):
            yield path
    for kind in ("wheels", "debs", "bytecode"):
        yield from (path for path in _things(store, kind) if path.stat().st_mtime < since)


def _newest(folder: Path) -> float:
    """Time of the newest file below a folder; torch does not note when it uses a kernel, so that is when it was compiled."""
    return max((path.lstat().st_mtime for path in folder.rglob("*")), default=folder.lstat().st_mtime)


def _manifests(store: Store, item: dict[str, Any]) -> list[str]:
    found = json.loads(store.read(item["digest"]))
    return [inner["digest"] for inner in found["manifests"]] if "manifests" in found else [item["digest"]]


def _trees(store: Store, item: dict[str, Any]) -> set[str]:
    """Names of the trees of an image; none if its blobs are gone."""
    try:
        return {tree_name(json.loads(store.read(digest))["config"]["digest"]) for digest in _manifests(store, item)}
    except BuildError:
        return set()


def _leftovers(store: Store) -> Iterator[Path]:
    """Partial files of killed builders; no build runs meanwhile."""
    for folder in (
        store.blobs,
        store.bytecode,
        store.trees,
        store.root / "layers",
        store.root / "files",
        store.root / "members",
        store.root / "materials",
    ):
        yield from folder.glob(".part-*")


def _things(store: Store, kind: str) -> Iterator[Path]:
    folder = store.root / kind
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if not path.name.startswith("."))


def _size(path: Path, seen: set[int]) -> int:
    """Bytes on disk; of several hard links to a file, the first counts."""
    size = 0
    pending = [str(path)]
    while pending:
        place = pending.pop()
        # 300,000 Path objects cost five seconds; entries of scandir know most of what is asked here.
        status = os.lstat(place) if os.path.lexists(place) else None
        if status is None:
            continue
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(place) as found:
                for entry in found:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif entry.inode() not in seen:
                        seen.add(entry.inode())
                        size += entry.stat(follow_symlinks=False).st_blocks * 512
        elif status.st_ino not in seen:
            seen.add(status.st_ino)
            size += status.st_blocks * 512
    return size


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
