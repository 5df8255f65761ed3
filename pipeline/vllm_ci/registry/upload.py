"""One blob into a registry: whole or in chunks, and on from where a connection broke."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vllm_ci.domain.errors import RegistryError
from vllm_ci.registry import locations
from vllm_ci.registry.answer import RegistryAnswer
from vllm_ci.registry.errors import DigestError, NotFoundError, RefusedError, UnreachableError
from vllm_ci.registry.manifest import Descriptor
from vllm_ci.registry.refusals import given_up
from vllm_ci.registry.repository import OnBytes, Reader
from vllm_ci.registry.retry import Failures
from vllm_ci.registry.session import Session
from vllm_ci.registry.wire import Body

_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where an upload goes on: a whole URL, and the bytes that are there."""

    location: str
    offset: int
    mounted: bool = False


class Upload:
    """The upload of one blob (distribution specification, "Pushing Blobs").

    Args:
        session: Connection to the registry.
        descriptor: The blob.
        reader: Its bytes.
        mount_from: Repositories on the same registry that may have it already.
        on_bytes: Told the digest and the number of bytes after each piece is handed to the connection.
    """

    def __init__(
        self,
        session: Session,
        descriptor: Descriptor,
        reader: Reader,
        *,
        mount_from: Sequence[str] = (),
        on_bytes: OnBytes | None = None,
    ) -> None:
        self._session = session
        self._descriptor = descriptor
        self._reader = reader
        self._mount_from = mount_from
        self._on_bytes = on_bytes or (lambda _digest, _count: None)
        self._path = f"/v2/{session.endpoint.path}"
        self._scope = f"repository:{session.endpoint.path}:pull,push"

    def run(self) -> bool:
        """Upload it; false when it was mounted instead.

        Raises:
            DigestError: The source's bytes are not what their digest says.
            RegistryError: The registry refused, or broke more often than retries are allowed.
        """
        place = self._mount() or self._begin()
        failures = Failures(self._session.access.retry)
        while not place.mounted:
            try:
                if place.offset == 0 and self._descriptor.size <= self._session.access.chunk_bytes:
                    self._finish(place, self._pieces(0, self._descriptor.size))
                    return True
                if place.offset >= self._descriptor.size:
                    self._finish(place, None)
                    return True
                place = self._chunk(place)
                failures.reset()
            except RegistryError as error:
                asked = error.retry_after if isinstance(error, RefusedError) else ""
                if not self._may_go_on(error):
                    raise
                if not failures.again(asked):
                    raise (given_up(error, failures.count) if isinstance(error, UnreachableError) else error) from error
                if self._arrived():
                    return True
                place = self._resumed(place) or self._begin()
        return False

    def _mount(self) -> _Place | None:
        """The place after asking for cross-repository mounts: done, an upload that was begun instead, or ``None``."""
        place = None
        for source in self._mount_from:
            scope = f"{self._scope} repository:{source}:pull"
            with contextlib.suppress(RegistryError):  # a mount is a shortcut: whatever is wrong with it, the upload will say
                query = f"mount={self._descriptor.digest}&from={source}"
                answer = self._session.request("POST", f"{self._path}/blobs/uploads/?{query}", scope=scope, ok=(201, 202))
                if answer.status == 201:
                    return _Place(location="", offset=0, mounted=True)
                if place:
                    self._session.request("DELETE", place.location, scope=self._scope, ok=(200, 202, 204), patient=False)
                place = _Place(location=_location(answer), offset=0)
        return place

    def _begin(self) -> _Place:
        answer = self._session.request("POST", f"{self._path}/blobs/uploads/", scope=self._scope, ok=(202,))
        return _Place(location=_location(answer), offset=0)

    def _chunk(self, place: _Place) -> _Place:
        stop = min(place.offset + self._session.access.chunk_bytes, self._descriptor.size)
        answer = self._session.request(
            "PATCH",
            place.location,
            scope=self._scope,
            ok=(201, 202, 204),
            headers={
                "Content-Type": "application/octet-stream",
                "Content-Range": f"{place.offset}-{stop - 1}",
                "Content-Length": str(stop - place.offset),
            },
            body=self._pieces(place.offset, stop),
            patient=False,
        )
        return _Place(location=_location(answer, place.location), offset=_received(answer.headers.get("Range", ""), stop))

    def _finish(self, place: _Place, body: Body | None) -> None:
        length = self._descriptor.size if body else 0
        self._session.request(
            "PUT",
            locations.with_query(place.location, f"digest={self._descriptor.digest}"),
            scope=self._scope,
            ok=(201, 204),
            headers={"Content-Type": "application/octet-stream", "Content-Length": str(length)},
            body=body,
            patient=False,
        )

    def _resumed(self, place: _Place) -> _Place | None:
        """Where the registry says the upload stands; ``None`` when it has forgotten, or kept something unusable."""
        try:
            answer = self._session.request("GET", place.location, scope=self._scope, ok=(204,), patient=False)
            # "0-0" is what registries say of one byte and of none.
            offset = _received(answer.headers.get("Range", ""), 0)
            return _Place(location=_location(answer, place.location), offset=offset) if offset > 1 else None
        except RegistryError:
            return None

    def _arrived(self) -> bool:
        """Whether the registry has the blob after all (the answer was lost, not the request)."""
        try:
            self._session.request("HEAD", f"{self._path}/blobs/{self._descriptor.digest}", scope=self._scope, patient=False)
        except RegistryError:
            return False
        return True

    def _may_go_on(self, error: RegistryError) -> bool:
        """Whether another try can help; bytes that are wrong here, before they were sent, are said so."""
        if isinstance(error, UnreachableError | NotFoundError):
            return True
        if not isinstance(error, RefusedError) or error.status not in (400, 409, 416, 499):
            return False
        digest = hashlib.sha256()
        for piece in self._reader(0):
            digest.update(piece)
        if "sha256:" + digest.hexdigest() != self._descriptor.digest:
            raise _damaged(self._descriptor, f"its bytes have sha256:{digest.hexdigest()}") from error
        return True

    def _pieces(self, start: int, stop: int) -> Body:
        def pieces() -> Iterator[bytes]:
            left = stop - start
            for piece in self._reader(start) if left else ():
                part = piece[:left]
                left -= len(part)
                yield part
                self._on_bytes(self._descriptor.digest, len(part))
                if not left:
                    return
            if left:
                raise _damaged(self._descriptor, f"{left} of its {self._descriptor.size} bytes are missing")

        return pieces


def _damaged(blob: Descriptor, why: str) -> DigestError:
    return DigestError(
        f"the blob {blob.digest} is damaged on this machine",
        why=why,
        remedy="delete that blob and build or pull the image again",
    )


def _location(answer: RegistryAnswer, fallback: str = "") -> str:
    """Where an answer says that the upload goes on, as a whole URL: relative ones are relative to what was answered."""
    location = answer.headers.get("Location", "")
    if not location and not fallback:
        raise RegistryError(
            f"{answer.host} returned no upload location",
            why="its answer has no Location header",
            remedy="check the registry and any proxies",
        )
    return locations.resolve(answer.url, location) if location else fallback


def _received(header: str, fallback: int) -> int:
    """Bytes a registry has of an upload: its ``Range`` names the last one."""
    match = _RANGE.fullmatch(header.strip())
    return int(match[1]) + 1 if match else fallback
