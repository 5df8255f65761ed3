"""Images from one place to another, digests unchanged: push, pull, copy."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vllm_ci.registry.access import Access
from vllm_ci.registry.errors import DigestError, ForbiddenError, NotFoundError, UnauthorizedError
from vllm_ci.registry.layout import Layout
from vllm_ci.registry.manifest import Descriptor, Manifest
from vllm_ci.registry.reference import split_name
from vllm_ci.registry.repository import BlobSource, OnBytes, Repository

# Bytes that were altered on the way are fetched this often.
_READS = 3


@dataclass(frozen=True, kw_only=True)
class PushResult:
    """What a transfer did.

    Attributes:
        repository: Where the image is now.
        digest: Of its manifest or index.
        tags: That point at it now.
        pushed_bytes: Sent (blobs and manifests).
        present_bytes: Of blobs that were there already, or were mounted from another repository.
        pushed_blobs: Number of blobs sent.
        seconds: Wall time.
    """

    repository: str
    digest: str
    tags: tuple[str, ...]
    pushed_bytes: int
    present_bytes: int
    pushed_blobs: int
    seconds: float

    @property
    def reference(self) -> str:
        """``repository@digest``."""
        return f"{self.repository}@{self.digest}"


@contextmanager
def open_repository(name: str, access: Access | None = None) -> Iterator[Repository]:
    """The repository that a name means: ``oci:FOLDER``, or ``host/path`` in a registry; tag and digest are ignored."""
    if name.startswith("oci:"):
        yield Layout(Path(split_name(name.removeprefix("oci:"))[0]))
        return
    from vllm_ci.registry.client import RemoteRepository  # httpx is loaded only when a network is used

    with RemoteRepository(name, access) as repository:
        yield repository


def push(
    layout: Path | Layout,
    digest: str,
    repository: str,
    tags: Sequence[str] = (),
    *,
    stores: Sequence[Path] = (),
    fallbacks: Sequence[BlobSource] = (),
    mount_from: Sequence[str] = (),
    access: Access | None = None,
    on_bytes: OnBytes | None = None,
) -> PushResult:
    """Bring an image from a layout into a registry.

    Args:
        layout: Folder with the image.
        digest: Its manifest or index.
        repository: ``host/path`` (or ``oci:FOLDER``).
        tags: To set when everything is there.
        stores: More folders with ``blobs/sha256`` to take blobs from.
        fallbacks: More sources, for blobs that are in none of the folders (a base image's registry).
        mount_from: Repositories of the same registry that may have some of the blobs.
        access: How registries are reached.
        on_bytes: Progress, called from several threads.

    Raises:
        RegistryError: Something was refused or broke; what was sent stays and need not be sent again.
        DigestError: A blob's bytes are not what its digest says.
    """
    source = layout if isinstance(layout, Layout) else Layout(layout, stores=stores)
    access = access or Access.from_environment()
    with open_repository(repository, access) as target:
        return copy(
            (source, *fallbacks), digest, target, tags, mount_from=mount_from, parallel=access.parallel, on_bytes=on_bytes
        )


def pull(
    repository: str, reference: str, layout: Path, *, access: Access | None = None, on_bytes: OnBytes | None = None
) -> PushResult:
    """Bring an image (digest or tag) from a registry into a layout, verified.

    Raises:
        NotFoundError: There is no such image.
        DigestError: The registry gave other bytes.
    """
    access = access or Access.from_environment()
    with open_repository(repository, access) as source:
        manifest = source.manifest(reference)
        tags = () if reference.startswith("sha256:") else (reference,)
        return copy((source,), manifest.digest, Layout(layout), tags, parallel=access.parallel, on_bytes=on_bytes)


def copy(
    sources: Sequence[BlobSource],
    digest: str,
    target: Repository,
    tags: Sequence[str] = (),
    *,
    mount_from: Sequence[str] = (),
    parallel: int = 8,
    on_bytes: OnBytes | None = None,
) -> PushResult:
    """As :func:`push`, between any two places: blobs side by side, then manifests from the leaves up, then tags."""
    started = time.monotonic()
    manifests = list(_closure(sources, digest))
    sent = _Sent(on_bytes)
    present = 0
    if not _is_there(target, digest, digest):
        blobs = {blob.digest: blob for manifest in manifests for blob in manifest.blobs}
        each_at_once(parallel, [partial(_transfer, sources, blob, target, mount_from, sent) for blob in blobs.values()])
        present = sum(blob.size for blob in blobs.values()) - sum(
            blob.size for name, blob in blobs.items() if name in sent.blobs
        )
        for manifest in manifests:
            target.put_manifest(manifest)
            sent(manifest.digest, len(manifest.content))
            sent.blobs.discard(manifest.digest)
    for tag in tags:
        if not _is_there(target, tag, digest):
            target.put_manifest(manifests[-1], tag=tag)
    return PushResult(
        repository=target.name,
        digest=digest,
        tags=tuple(tags),
        pushed_bytes=sent.bytes,
        present_bytes=present,
        pushed_blobs=len(sent.blobs),
        seconds=time.monotonic() - started,
    )


def _is_there(target: Repository, reference: str, digest: str) -> bool:
    """Whether nothing is to be done; a registry may hide what does not exist yet, and the push itself then says more."""
    try:
        return target.resolve(reference) == digest
    except (UnauthorizedError, ForbiddenError):
        return False


class _Sent:
    """Counts what goes by."""

    def __init__(self, on_bytes: OnBytes | None) -> None:
        self.bytes = 0
        self.blobs: set[str] = set()
        self._on_bytes = on_bytes
        self._lock = threading.Lock()

    def __call__(self, digest: str, count: int) -> None:
        with self._lock:
            self.bytes += count
            self.blobs.add(digest)
        if self._on_bytes:
            self._on_bytes(digest, count)


def _closure(sources: Sequence[BlobSource], digest: str) -> Iterator[Manifest]:
    """An image's manifests, those it lists before itself."""
    manifest = _manifest(sources, digest)
    for child in manifest.manifests:
        yield from _closure(sources, child.digest)
    yield manifest


def _manifest(sources: Sequence[BlobSource], digest: str) -> Manifest:
    for source in sources:
        try:
            return source.manifest(digest).require(digest, source.name)
        except NotFoundError:
            continue
    raise NotFoundError(
        f"no manifest {digest} in {', '.join(source.name for source in sources)}",
        remedy="build the image again, or check the digest",
    )


def _transfer(
    sources: Sequence[BlobSource], blob: Descriptor, target: Repository, mount_from: Sequence[str], sent: _Sent
) -> None:
    for read in range(1, _READS + 1):
        try:
            target.put_blob(blob, lambda start: _read(sources, blob, start), mount_from=mount_from, on_bytes=sent)
        except DigestError:
            if read == _READS:
                raise
        else:
            return


def _read(sources: Sequence[BlobSource], blob: Descriptor, start: int) -> Iterator[bytes]:
    for source in sources:
        if source.has_blob(blob.digest):
            return source.read_blob(blob.digest, start)
    raise NotFoundError(
        f"no blob {blob.digest} in {', '.join(source.name for source in sources)}",
        why="the image's base or a layer was never fetched, or was pruned",
        remedy="build the image again",
    )


def each_at_once(parallel: int, calls: Sequence[partial[None]]) -> None:
    """Run all, side by side; the first error ends the rest."""
    with ThreadPoolExecutor(max_workers=max(1, parallel), thread_name_prefix="blob") as pool:
        futures = [pool.submit(call) for call in calls]
        done, waiting = wait(futures, return_when=FIRST_EXCEPTION)
        for future in waiting:
            future.cancel()
        for future in done:
            future.result()
