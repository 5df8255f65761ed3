"""What the rest of the package asks of a place that holds images: a registry's repository or a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from vllm_ci.registry.manifest import Descriptor, Manifest

# Gives a blob's bytes from an offset.
Reader = Callable[[int], Iterable[bytes]]
# Told a blob's digest and how many more of its bytes went by.
OnBytes = Callable[[str, int], None]


class BlobSource(Protocol):
    """Where blobs can be read from."""

    name: str

    def has_blob(self, digest: str) -> bool:
        """Whether a blob is here."""

    def read_blob(self, digest: str, start: int = 0) -> Iterator[bytes]:
        """A blob's bytes from ``start``, in pieces, not yet verified."""

    def manifest(self, reference: str) -> Manifest:
        """The manifest with this digest or tag, verified.

        Raises:
            NotFoundError: There is none.
        """


class Repository(BlobSource, Protocol):
    """A named place for manifests, blobs, tags and referrers."""

    def resolve(self, reference: str) -> str | None:
        """Digest of a tag or of a manifest that is here, ``None`` when there is no such thing."""

    def blob(self, digest: str) -> bytes:
        """A small blob in full, verified."""

    def put_blob(
        self, descriptor: Descriptor, reader: Reader, *, mount_from: Sequence[str] = (), on_bytes: OnBytes | None = None
    ) -> bool:
        """Keep a blob; false when no bytes had to be transferred.

        Raises:
            DigestError: The bytes are not what the descriptor says; nothing is kept.
        """

    def put_manifest(self, manifest: Manifest, *, tag: str = "") -> None:
        """Keep a manifest whose parts are here, under a tag when one is given."""

    def attach(self, *manifests: Manifest) -> None:
        """Keep manifests that have a subject, so that :meth:`referrers` finds them, with or without the referrers API."""

    def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        """Descriptors of the manifests that are about ``digest``."""

    def tags(self) -> tuple[str, ...]:
        """All tags, sorted; none when the repository is not there yet."""

    def delete(self, digest: str) -> None:
        """Delete a manifest and its tags.

        Raises:
            UnsupportedError: The registry cannot.
        """
