"""A repository in a registry, over the OCI distribution protocol 1.1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

from vllm_ci.domain.errors import RegistryError
from vllm_ci.registry import referrers
from vllm_ci.registry.access import Access
from vllm_ci.registry.answer import RegistryAnswer
from vllm_ci.registry.errors import (
    DigestError,
    ForbiddenError,
    NotFoundError,
    RefusedError,
    UnauthorizedError,
)
from vllm_ci.registry.manifest import Descriptor, Manifest, digest_of
from vllm_ci.registry.pages import pages
from vllm_ci.registry.reading import ACCEPT, Sources, read_manifest
from vllm_ci.registry.reference import Reference, check_tag, is_digest, parse
from vllm_ci.registry.referrers import FallbackIndex
from vllm_ci.registry.repository import OnBytes, Reader
from vllm_ci.registry.retry import Failures
from vllm_ci.registry.session import Session
from vllm_ci.registry.upload import Upload

# Blobs up to this size are kept for the next time they are asked for.
_KEPT_BYTES = 1 << 20
# Blobs that are read as a whole are configurations and statements; layers are streamed.
_MOST_BYTES = 256 << 20
# What a registry (or a filter before it) that does not take HEAD answers; a GET of the same place says what is there.
_NO_HEAD = frozenset({400, 405, 406, 501})
# A manifest whose blobs the registry does not see whole yet is given to it again.
_PUTS = 3
_UNSETTLED = frozenset({"DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"})


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
        self._sessions = [Session(each, self.access) for each in self.access.sources(self.reference)]
        self._origin = self._sessions[-1]
        self._sources = Sources(self._sessions, self.name)
        self._manifests: dict[str, Manifest] = {}
        self._blobs: dict[str, bytes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        for session in self._sessions:
            session.close()

    # Reading ------------------------------------------------------------------------------------------------------------

    def resolve(self, reference: str) -> str | None:
        """Digest of a tag or of a manifest that is in the registry itself; ``None`` when there is no such thing."""
        try:
            answer = self._asked_for(self._path("manifests", reference))
            told = answer.headers.get("Docker-Content-Digest", "") if answer else ""
            # A manifest that is said to have another digest than the one it was asked by is looked at.
            if is_digest(told) and (told == reference or not is_digest(reference)):
                return told
            return self.current(reference).digest
        except NotFoundError:
            return None

    def _asked_for(self, place: str) -> RegistryAnswer | None:
        """The answer to HEAD; ``None`` where the registry does not take that.

        An account may lack a repository that does not exist yet: some token servers then refuse the right to pull, and grant
        the right to push. So that is asked for before the refusal is believed.
        """
        for scope in (self._pull, self._push):
            try:
                return self._origin.request("HEAD", place, scope=scope, headers=ACCEPT if "/manifests/" in place else None)
            except (UnauthorizedError, ForbiddenError):
                if scope == self._push or not self._origin.credentials:
                    raise
            except RefusedError as error:
                if error.status in _NO_HEAD:
                    return None
                raise
        return None

    def current(self, reference: str) -> Manifest:
        """The manifest that is in the registry itself now, whatever a mirror has."""
        return read_manifest(self._origin, reference)

    def manifest(self, reference: str) -> Manifest:
        """The manifest with this digest or tag; verified when asked for by digest.

        Raises:
            NotFoundError: There is none.
            DigestError: The registry gave other bytes.
        """
        if reference in self._manifests:
            return self._manifests[reference]
        found = self._sources.manifest(reference)
        # Under a digest there is never anything else; a tag may move.
        self._manifests[found.digest] = found
        return found

    def has_blob(self, digest: str) -> bool:
        """Whether the registry itself has a blob in this repository."""
        try:
            if self._asked_for(self._path("blobs", digest)) is None:
                with self._origin.stream("GET", self._path("blobs", digest), scope=self._pull):
                    pass  # the body is not read
        except NotFoundError:
            return False
        return True

    def read_blob(self, digest: str, start: int = 0) -> Iterator[bytes]:
        """A blob's bytes from ``start``, in pieces, not yet verified; goes on where a connection broke."""
        return self._sources.read_blob(digest, start)

    def blob(self, digest: str) -> bytes:
        """A small blob in full, verified.

        Raises:
            DigestError: The registry gave other bytes.
        """
        if digest in self._blobs:
            return self._blobs[digest]
        content = self._whole(digest)
        if digest_of(content) != digest:
            raise DigestError(f"{self.name} sent bytes with {digest_of(content)} for {digest}", remedy="try again")
        if len(content) <= _KEPT_BYTES:
            self._blobs[digest] = content
        return content

    def _whole(self, digest: str) -> bytes:
        content = bytearray()
        for piece in self.read_blob(digest):
            content += piece
            if len(content) > _MOST_BYTES:
                raise RegistryError(
                    f"{self.name}: the blob {digest} has more than {_MOST_BYTES >> 20} MiB",
                    why="configurations and statements are never that large",
                    remedy="check what was pushed there",
                )
        return bytes(content)

    def tags(self) -> tuple[str, ...]:
        """All tags, sorted; none when the repository is not there yet."""
        found: set[str] = set()
        try:
            for page in pages(self._origin, f"{self._path('tags', 'list')}?n=1000", scope=self._pull):
                found |= _tags_of(page)
        except NotFoundError:
            return ()
        return tuple(sorted(found))

    def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        """Descriptors of the manifests that are about ``digest``: by the referrers API and by the fallback's tags."""
        listed = referrers.listed(self._origin, self._path("referrers", digest), scope=self._pull)
        fallback = FallbackIndex(self)
        if listed is None:
            return fallback.read(digest)
        # What was attached before the registry had the API: not every registry lists that as the specification wants it.
        return tuple({each.digest: each for each in (*fallback.listed(digest), *listed)}.values())

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
        try:
            if self.has_blob(descriptor.digest):
                return False
        except (UnauthorizedError, ForbiddenError):
            pass  # stores say so of what is not there, too; where the right is lacking the upload is refused
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

    def delete(self, digest: str) -> None:
        """Delete a manifest and its tags.

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

    @property
    def _push(self) -> str:
        return f"repository:{self._origin.endpoint.path}:pull,push"

    def _path(self, kind: str, reference: str) -> str:
        return f"/v2/{self._origin.endpoint.path}/{kind}/{reference}"

    def _put(self, manifest: Manifest, reference: str) -> RegistryAnswer:
        answer = self._put_settled(manifest, reference)
        told = answer.headers.get("Docker-Content-Digest", manifest.digest)
        if told != manifest.digest:
            raise DigestError(f"{self.name} keeps manifest {manifest.digest} as {told}", why="it was rewritten")
        if answer.status != 201:
            self._await(manifest, reference)
        return answer

    def _put_settled(self, manifest: Manifest, reference: str) -> RegistryAnswer:
        """Upload a manifest; a blob that another client is uploading can look unknown or damaged for a while."""
        failures = Failures(self.access.retry, _PUTS)
        while True:
            try:
                return self._origin.request(
                    "PUT",
                    self._path("manifests", reference),
                    scope=self._push,
                    ok=(200, 201, 202),
                    headers={"Content-Type": manifest.media_type},
                    body=lambda: manifest.content,
                )
            except RefusedError as error:
                if error.status != 400 or error.code not in _UNSETTLED or not failures.again():
                    raise

    def _await(self, manifest: Manifest, reference: str) -> None:
        """Only 201 says that the manifest is kept (distribution specification); after other answers it is looked for."""
        failures = Failures(self.access.retry)
        while self.resolve(reference) != manifest.digest:
            if not failures.again():
                raise RefusedError(
                    f"{self.name} accepted the manifest {manifest.digest} as {reference} but does not have it",
                    why="it did not answer 201 Created",
                    remedy="check the registry and any proxies",
                )


def _tags_of(page: RegistryAnswer) -> set[str]:
    value = page.json()
    tags = value.get("tags") if isinstance(value, dict) else page
    if tags is not None and not (isinstance(tags, list) and all(isinstance(each, str) for each in tags)):
        raise RegistryError(
            f"{page.host} returned no list of tags",
            why=f"{page.url[:200]} answered 200 with {page.headers.get('Content-Type') or 'unknown type'} which is not a list",
            remedy="check the registry's address: a web page or a proxy may answer in its place",
        )
    return set(tags or ())
