"""An OCI image layout: images in a folder (image specification, ``image-layout.md``), read by anything that speaks OCI."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from vllm_ci.registry.errors import DigestError, NotFoundError, UnsupportedError
from vllm_ci.registry.manifest import MANIFEST_TYPES, OCI_INDEX, Descriptor, Manifest
from vllm_ci.registry.reference import check_tag, is_digest
from vllm_ci.registry.repository import OnBytes, Reader
from vllm_ci.system.filelock import hold

REF_NAME = "org.opencontainers.image.ref.name"
_CHUNK_BYTES = 1 << 20


class Layout:
    """A repository in a folder.

    Args:
        path: The folder; it is made by the first write.
        stores: More folders with a ``blobs/sha256``, where blobs are looked for as well (a builder's shared store).
    """

    def __init__(self, path: Path, *, stores: Sequence[Path] = ()) -> None:
        self.path = path
        self.name = f"oci:{path}"
        self._roots = (path, *stores)

    # Reading ------------------------------------------------------------------------------------------------------------

    def find(self, digest: str) -> Path | None:
        """The file that holds a blob or manifest."""
        if not is_digest(digest):
            return None
        places = (root / "blobs" / "sha256" / digest[7:] for root in self._roots)
        return next((place for place in places if place.is_file()), None)

    def size(self, digest: str) -> int | None:
        """Bytes of a blob, ``None`` when it is not here."""
        found = self.find(digest)
        return found.stat().st_size if found else None

    def has_blob(self, digest: str) -> bool:
        """Whether a blob is here."""
        return self.find(digest) is not None

    def open(self, digest: str) -> BinaryIO:
        """A blob, to read from.

        Raises:
            NotFoundError: It is not here.
        """
        found = self.find(digest)
        if found is None:
            raise NotFoundError(f"no blob {digest} in {self.name}", remedy="build or pull the image again")
        return found.open("rb")

    def read_blob(self, digest: str, start: int = 0) -> Iterator[bytes]:
        """A blob's bytes from ``start``, in pieces, as they are on disk."""
        with self.open(digest) as stream:
            stream.seek(start)
            while piece := stream.read(_CHUNK_BYTES):
                yield piece

    def blob(self, digest: str) -> bytes:
        """A small blob in full, verified.

        Raises:
            DigestError: The file was altered.
        """
        content = b"".join(self.read_blob(digest))
        if hashlib.sha256(content).hexdigest() != digest[7:]:
            raise DigestError(
                f"the bytes of {digest} in {self.name} were altered", remedy="delete that blob and build or pull again"
            )
        return content

    def index(self) -> list[dict[str, Any]]:
        """Descriptors in ``index.json``, as they are written there; none when there is no such file."""
        return list(self._index().get("manifests") or ())

    def _index(self) -> dict[str, Any]:
        try:
            value: dict[str, Any] = json.loads((self.path / "index.json").read_bytes())
        except FileNotFoundError:
            return {}
        return value

    def entries(self) -> tuple[Descriptor, ...]:
        """What ``index.json`` lists; nothing when there is none."""
        return tuple(Descriptor.from_json(each) for each in self.index())

    def resolve(self, reference: str) -> str | None:
        """Digest of a tag, or of a manifest that is here; ``None`` when there is no such thing."""
        if is_digest(reference):
            return reference if self.has_blob(reference) else None
        return next((each.digest for each in self.entries() if each.annotations.get(REF_NAME) == reference), None)

    def manifest(self, reference: str) -> Manifest:
        """The manifest with this digest or tag.

        Raises:
            NotFoundError: There is none.
        """
        digest = self.resolve(reference)
        if digest is None:
            raise NotFoundError(f"no manifest {reference} in {self.name}")
        return Manifest.parse(self.blob(digest))

    def tags(self) -> tuple[str, ...]:
        """All tags, sorted."""
        return tuple(sorted(tag for each in self.entries() if (tag := each.annotations.get(REF_NAME))))

    def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        """Descriptors of the manifests that are about ``digest``."""
        found = []
        for entry in self.entries():
            if entry.media_type in MANIFEST_TYPES and self.has_blob(entry.digest):
                manifest = self.manifest(entry.digest)
                if manifest.subject == digest:
                    found.append(manifest.descriptor)
        return tuple(found)

    # Writing ------------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the folder a layout.

        Raises:
            UnsupportedError: It is one of another version.
        """
        (self.path / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        marker = self.path / "oci-layout"
        if not marker.exists():
            with _replacing(marker) as stream:
                stream.write(_canonical({"imageLayoutVersion": "1.0.0"}))
        elif json.loads(marker.read_bytes()).get("imageLayoutVersion") != "1.0.0":
            raise UnsupportedError(f"{self.name} is an image layout of an unsupported version", remedy="name another folder")

    def add(self, content: bytes) -> str:
        """Keep a small blob; its digest."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.put_blob(Descriptor(media_type="", digest=digest, size=len(content)), lambda start: [content[start:]])
        return digest

    def add_file(self, digest: str, source: Path) -> None:
        """Keep a blob from a file on this machine: linked where the disk allows it."""
        target = self.path / "blobs" / "sha256" / digest[7:]
        if target.exists():
            return
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)

    def replace_index(self, manifests: Sequence[dict[str, Any]]) -> None:
        """List these descriptors and no others; the caller must be the only writer."""
        self._write_index({}, manifests)

    def _write_index(self, before: Mapping[str, Any], manifests: Sequence[dict[str, Any]]) -> None:
        value = {"schemaVersion": 2, "mediaType": OCI_INDEX, **before, "manifests": list(manifests)}
        with _replacing(self.path / "index.json") as stream:
            stream.write(_canonical(value))

    def put_blob(
        self,
        descriptor: Descriptor,
        reader: Reader,
        *,
        mount_from: Sequence[str] = (),  # noqa: ARG002 - nothing to mount from
        on_bytes: OnBytes | None = None,
    ) -> bool:
        """Keep a blob; false when it was here already.

        Raises:
            DigestError: The pieces do not have the descriptor's digest or size; nothing is kept.
        """
        if self.has_blob(descriptor.digest):
            return False
        target = self.path / "blobs" / "sha256" / descriptor.digest[7:]
        target.parent.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with _replacing(target) as stream:
            for piece in reader(0):
                digest.update(piece)
                size += len(piece)
                stream.write(piece)
                if on_bytes:
                    on_bytes(descriptor.digest, len(piece))
            if "sha256:" + digest.hexdigest() != descriptor.digest or size != descriptor.size:
                raise DigestError(
                    f"{size} bytes of sha256:{digest.hexdigest()} came, expected {descriptor.size} of {descriptor.digest}",
                    why="they were altered or truncated in transit",
                    remedy="try again; if it happens again, the blob is damaged at its source",
                )
        return True

    def put_manifest(self, manifest: Manifest, *, tag: str = "") -> None:
        """Keep a manifest and list it; ``tag``, when given, then names it and no other."""
        self.put_blob(manifest.descriptor, lambda start: [manifest.content[start:]])
        with self.changing_index() as entries:
            annotations = {REF_NAME: check_tag(tag)} if tag else {}
            if tag:
                entries[:] = [each for each in entries if (each.get("annotations") or {}).get(REF_NAME) != tag]
            listed = any(each["digest"] == manifest.digest for each in entries)
            if tag or not listed:
                # A tagged entry replaces the untagged one of the same manifest.
                entries[:] = [each for each in entries if each["digest"] != manifest.digest or (each.get("annotations") or {})]
                described = manifest.descriptor
                entries.append(
                    Descriptor(
                        media_type=described.media_type,
                        digest=described.digest,
                        size=described.size,
                        artifact_type=described.artifact_type if manifest.subject else "",
                        annotations=annotations,
                    ).to_json()
                )

    def attach(self, *manifests: Manifest) -> None:
        """Keep manifests that have a subject, so that :meth:`referrers` finds them."""
        for manifest in manifests:
            self.put_manifest(manifest)

    def delete(self, digest: str) -> None:
        """Delete a manifest, its tags, and the blobs that nothing else here refers to."""
        with self.changing_index() as entries:
            entries[:] = [each for each in entries if each["digest"] != digest]
        keep = {found for entry in self.entries() for found in self._reachable(entry.digest)}
        for blob in (self.path / "blobs" / "sha256").iterdir():
            if is_digest(f"sha256:{blob.name}") and f"sha256:{blob.name}" not in keep:
                blob.unlink()

    def _reachable(self, digest: str) -> Iterator[str]:
        yield digest
        if not self.has_blob(digest):
            return
        manifest = self.manifest(digest)
        yield from (each.digest for each in manifest.blobs)
        for child in manifest.manifests:
            yield from self._reachable(child.digest)

    @contextmanager
    def changing_index(self) -> Iterator[list[dict[str, Any]]]:
        """The entries of ``index.json`` under a lock; written back whole, by rename, when the block ends well."""
        self.prepare()
        with hold(self.path / ".lock"):
            before = self._index()
            entries = copy.deepcopy(list(before.get("manifests") or ()))
            yield entries
            if entries != before.get("manifests"):
                self._write_index(before, entries)


def _canonical(value: object) -> bytes:
    """JSON that is the same for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


@contextmanager
def _replacing(target: Path) -> Iterator[BinaryIO]:
    """A file that takes its place, whole and on disk, only when the block ends well."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".part-")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
