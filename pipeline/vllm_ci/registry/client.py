"""A repository in a registry, over the OCI distribution protocol 1.1."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Self, TypeVar

import httpx

from vllm_ci.registry.access import Access
from vllm_ci.registry.errors import DigestError, NotFoundError, RefusedError, UnreachableError, UnsupportedError
from vllm_ci.registry.manifest import MANIFEST_TYPES, OCI_INDEX, Descriptor, Manifest, digest_of
from vllm_ci.registry.reference import Reference, check_tag, is_digest, parse
from vllm_ci.registry.referrers import FallbackIndex
from vllm_ci.registry.repository import OnBytes, Reader
from vllm_ci.registry.session import Session
from vllm_ci.registry.upload import Upload

_T = TypeVar("_T")
_PIECE_BYTES = 1 << 20
# Blobs up to this size are kept for the next time they are asked for.
_KEPT_BYTES = 1 << 20
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')


class RemoteRepository:
    """One repository of one registry; safe for threads; closes its connections when its ``with`` block ends.

    Args:
        reference: ``host/path``, with or without tag and digest (which are ignored), or a parsed reference.
        access: How registries are reached; the user's configuration by default.
    """

    def __init__(self, reference: str | Reference, access: Access | None = None) -> None:
        self.reference = parse(reference) if isinstance(reference, str) else reference
        self.name = self.reference.repository
        self.access = access or Access.from_environment()
        *self._mirrors, origin = [Session(each, self.access) for each in self.access.sources(self.reference)]
        self._origin = origin
        self._manifests: dict[str, Manifest] = {}
        self._blobs: dict[str, bytes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        for session in (*self._mirrors, self._origin):
            session.close()

    # Reading ------------------------------------------------------------------------------------------------------------

    def resolve(self, reference: str) -> str | None:
        """Digest of a tag or of a manifest that is in the registry itself; ``None`` when there is no such thing."""
        try:
            answer = self._origin.request("HEAD", self._path("manifests", reference), scope=self._pull, headers=_ACCEPT)
        except NotFoundError:
            return None
        told = answer.headers.get("Docker-Content-Digest", "")
        return told if is_digest(told) else self._read_manifest(self._origin, reference).digest

    def manifest(self, reference: str) -> Manifest:
        """The manifest with this digest or tag; verified when asked for by digest.

        Raises:
            NotFoundError: There is none.
            DigestError: The registry gave other bytes.
        """
        if reference in self._manifests:
            return self._manifests[reference]
        found = self._from_any(lambda session: self._read_manifest(session, reference))
        # Under a digest there is never anything else; a tag may move.
        self._manifests[found.digest] = found
        return found

    def has_blob(self, digest: str) -> bool:
        """Whether the registry itself has a blob in this repository."""
        try:
            self._origin.request("HEAD", self._path("blobs", digest), scope=self._pull)
        except NotFoundError:
            return False
        return True

    def read_blob(self, digest: str, start: int = 0) -> Iterator[bytes]:
        """A blob's bytes from ``start``, in pieces, not yet verified; goes on where a connection broke."""
        position, failures = start, 0
        while True:
            try:
                for piece in self._from_any_blob(digest, position):
                    yield piece
                    position += len(piece)
                    failures = 0
            except httpx.TransportError as error:
                failures += 1
                if failures >= self.access.retry.attempts:
                    raise UnreachableError(
                        f"{self.name}: reading {digest} broke {failures} times: {type(error).__name__}: {error}",
                        remedy="check the network and try again",
                    ) from error
                self.access.retry.wait(failures)
            else:
                return

    def blob(self, digest: str) -> bytes:
        """A small blob in full, verified.

        Raises:
            DigestError: The registry gave other bytes.
        """
        if digest in self._blobs:
            return self._blobs[digest]
        content = b"".join(self.read_blob(digest))
        if digest_of(content) != digest:
            raise DigestError(
                f"{self.name} gave bytes with {digest_of(content)} for {digest}", remedy="try again; do not use what came"
            )
        return content

    def tags(self) -> tuple[str, ...]:
        """All tags, sorted; none when the repository is not there yet."""
        found: list[str] = []
        place = f"{self._path('tags', 'list')}?n=1000"
        while place:
            try:
                answer = self._origin.request("GET", place, scope=self._pull)
            except NotFoundError:
                break
            found += answer.json().get("tags") or ()
            following = _NEXT.search(answer.headers.get("Link", ""))
            place = str(answer.url.join(following[1])) if following else ""
        return tuple(sorted(set(found)))

    def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        """Descriptors of the manifests that are about ``digest``: by the referrers API, else by the fallback's tags."""
        try:
            answer = self._origin.request(
                "GET", self._path("referrers", digest), scope=self._pull, headers={"Accept": OCI_INDEX}
            )
            return Manifest.parse(answer.content, OCI_INDEX).manifests
        except (NotFoundError, UnsupportedError):
            return FallbackIndex(self).read(digest)

    # Writing ------------------------------------------------------------------------------------------------------------

    def put_blob(
        self, descriptor: Descriptor, reader: Reader, *, mount_from: Sequence[str] = (), on_bytes: OnBytes | None = None
    ) -> bool:
        """Upload a blob unless it is there; false when no byte of it was sent (there already, or mounted).

        Args:
            descriptor: Digest and size.
            reader: Its bytes from an offset.
            mount_from: Other repositories that may have it; those of other registries are ignored.
            on_bytes: Progress.

        Raises:
            DigestError: The bytes are not what the descriptor says.
        """
        if self.has_blob(descriptor.digest):
            return False
        siblings = [
            other.path
            for name in mount_from
            if (other := parse(name)).host == self.reference.host and other.path != self.reference.path
        ]
        return Upload(self._origin, descriptor, reader, mount_from=siblings, on_bytes=on_bytes).run()

    def put_manifest(self, manifest: Manifest, *, tag: str = "") -> None:
        """Upload a manifest, under a tag when one is given, else by its digest."""
        self._put(manifest, check_tag(tag) if tag else manifest.digest)

    def attach(self, *manifests: Manifest) -> None:
        """Upload manifests that have a subject, and see them listed.

        Each gets a tag of its own: garbage collection of untagged manifests eats what has none.
        """
        fallback = FallbackIndex(self)
        unlisted = []
        for manifest in manifests:
            answer = self._put(manifest, fallback.tag(manifest))
            # The header says that the registry keeps the list itself ("Pushing Manifests with Subject" in the specification).
            if answer.headers.get("OCI-Subject") != manifest.subject:
                unlisted.append(manifest.subject)
        for subject in dict.fromkeys(unlisted):
            fallback.rebuild(subject)

    def untag(self, tag: str) -> None:
        """Forget a tag.

        Raises:
            UnsupportedError: The registry can only forget whole manifests, or nothing.
        """
        try:
            self._origin.request("DELETE", self._path("manifests", check_tag(tag)), scope=self._delete, ok=(200, 202))
        except RefusedError as error:
            if error.status in (400, 405):
                raise UnsupportedError(
                    f"{self.name} cannot forget a tag", why=error.why, remedy="delete it in the registry itself"
                ) from error
            raise

    def delete(self, digest: str) -> None:
        """Forget a manifest and its tags.

        Raises:
            UnsupportedError: The registry does not allow it.
        """
        self._manifests.pop(digest, None)
        self._origin.request("DELETE", self._path("manifests", digest), scope=self._delete, ok=(200, 202))

    # Inside -------------------------------------------------------------------------------------------------------------

    @property
    def _pull(self) -> str:
        return f"repository:{self._origin.endpoint.path}:pull"

    @property
    def _delete(self) -> str:
        return f"repository:{self._origin.endpoint.path}:delete,pull"

    def _path(self, kind: str, reference: str, session: Session | None = None) -> str:
        return f"/v2/{(session or self._origin).endpoint.path}/{kind}/{reference}"

    def _put(self, manifest: Manifest, reference: str) -> httpx.Response:
        answer = self._origin.request(
            "PUT",
            self._path("manifests", reference),
            scope=f"repository:{self._origin.endpoint.path}:pull,push",
            ok=(201,),
            headers={"Content-Type": manifest.media_type},
            body=lambda: manifest.content,
        )
        told = answer.headers.get("Docker-Content-Digest", manifest.digest)
        if told != manifest.digest:
            raise DigestError(f"{self.name} keeps manifest {manifest.digest} as {told}", why="something on the way rewrote it")
        return answer

    def _read_manifest(self, session: Session, reference: str) -> Manifest:
        scope = f"repository:{session.endpoint.path}:pull"
        answer = session.request("GET", self._path("manifests", reference, session), scope=scope, headers=_ACCEPT)
        if is_digest(reference) and digest_of(answer.content) != reference:
            raise DigestError(
                f"{session.endpoint.host} gave a manifest with {digest_of(answer.content)} for {reference}",
                why="the registry, or something between it and here, altered it",
                remedy="do not use this registry or mirror until that is explained",
            )
        return Manifest.parse(answer.content, answer.headers.get("Content-Type", ""))

    def _from_any(self, read: Callable[[Session], _T]) -> _T:
        """From the first mirror that can, else from the registry itself, whose error is the one that counts."""
        for session in self._mirrors:
            try:
                return read(session)
            except (RefusedError, DigestError):
                continue
        return read(self._origin)

    def _from_any_blob(self, digest: str, start: int) -> Iterator[bytes]:
        begun = False
        for session in self._mirrors:
            try:
                for piece in self._read_from(session, digest, start):
                    begun = True
                    yield piece
            except RefusedError:
                if begun:
                    raise
                continue
            return
        yield from self._read_from(self._origin, digest, start)

    def _read_from(self, session: Session, digest: str, start: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={start}-"} if start else {}
        place, scope = self._path("blobs", digest, session), f"repository:{session.endpoint.path}:pull"
        with session.stream("GET", place, scope=scope, ok=(200, 206, 416) if start else (200,), headers=headers) as answer:
            if answer.status_code == 416:  # nothing is left after start
                return
            skip = start if answer.status_code == 200 else 0
            for piece in answer.iter_raw(_PIECE_BYTES):
                if skip < len(piece):
                    yield piece[skip:]
                skip = max(0, skip - len(piece))


_ACCEPT = {"Accept": ", ".join(MANIFEST_TYPES)}
