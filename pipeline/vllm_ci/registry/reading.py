"""Reading manifests and blobs: from mirrors first, then from the registry itself, and on from where a connection broke."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import httpx

from vllm_ci.domain.errors import RegistryError
from vllm_ci.registry.errors import DigestError, RefusedError, UnreachableError
from vllm_ci.registry.manifest import MANIFEST_TYPES, Manifest, digest_of
from vllm_ci.registry.reference import is_digest
from vllm_ci.registry.refusals import given_up
from vllm_ci.registry.retry import Failures
from vllm_ci.registry.session import Session

ACCEPT = {"Accept": ", ".join(MANIFEST_TYPES)}

_T = TypeVar("_T")
_PIECE_BYTES = 1 << 20
_FIRST_BYTE = re.compile(r"bytes (\d{1,18})-")


class Sources:
    """All places that a repository is read from.

    Args:
        sessions: One for each place, the registry itself last.
        name: Of the repository, for messages.
    """

    def __init__(self, sessions: Sequence[Session], name: str) -> None:
        *self._mirrors, self._origin = sessions
        self._name = name

    def manifest(self, reference: str) -> Manifest:
        """The manifest with this digest or tag, which a mirror may have from yesterday."""
        return self._from_any(lambda session: read_manifest(session, reference))

    def read_blob(self, digest: str, start: int = 0) -> Iterator[bytes]:
        """A blob's bytes from ``start``, in pieces, not yet verified; goes on where a connection broke."""
        position, failures = start, Failures(self._origin.access.retry)
        while True:
            try:
                for piece in self._pieces(digest, position):
                    yield piece
                    position += len(piece)
                    failures.reset()
            except UnreachableError as error:
                if not error.passing or not failures.again():
                    message = f"{self._name}: reading {digest} was interrupted: {error.message}"
                    raise given_up(UnreachableError(message, why=error.why, remedy=error.remedy), failures.count) from error
            else:
                return

    def _from_any(self, read: Callable[[Session], _T]) -> _T:
        """From the first mirror that can, else from the registry itself, whose error is the one that counts."""
        for session in self._mirrors:
            try:
                return read(session)
            except RegistryError:
                continue
        return read(self._origin)

    def _pieces(self, digest: str, start: int) -> Iterator[bytes]:
        begun = False
        for session in self._mirrors:
            try:
                for piece in _read_from(session, digest, start):
                    begun = True
                    yield piece
            except RegistryError:
                if begun:
                    raise
                continue
            return
        yield from _read_from(self._origin, digest, start)


def read_manifest(session: Session, reference: str) -> Manifest:
    """A manifest from one place; verified when asked for by digest.

    Raises:
        DigestError: Other bytes came.
        RegistryError: They are no manifest.
    """
    path = f"/v2/{session.endpoint.path}/manifests/{reference}"
    answer = session.request("GET", path, scope=f"repository:{session.endpoint.path}:pull", headers=ACCEPT)
    if is_digest(reference) and digest_of(answer.content) != reference:
        raise DigestError(
            f"{session.endpoint.host} sent a manifest with {digest_of(answer.content)} for {reference}",
            why="the registry or a proxy altered it",
            remedy="do not use this registry or mirror until the cause is known",
        )
    try:
        return Manifest.parse(answer.content, answer.headers.get("Content-Type", ""))
    except RegistryError as error:
        raise RegistryError(f"{answer.host}: {reference}: {error.message}", why=error.why, remedy=error.remedy) from error


def _read_from(session: Session, digest: str, start: int) -> Iterator[bytes]:
    headers = {"Range": f"bytes={start}-"} if start else {}
    place, scope = f"/v2/{session.endpoint.path}/blobs/{digest}", f"repository:{session.endpoint.path}:pull"
    with session.stream("GET", place, scope=scope, ok=(200, 206, 416) if start else (200,), headers=headers) as answer:
        if answer.status_code == 416:  # nothing is left after start
            return
        skip = start - _first_byte(answer, start)
        for piece in answer.iter_raw(_PIECE_BYTES):
            if skip < len(piece):
                yield piece[skip:]
            skip = max(0, skip - len(piece))


def _first_byte(answer: httpx.Response, asked: int) -> int:
    """Where an answer begins: a server may ignore a range, or give a larger one (RFC 9110, section 15.3.7)."""
    if answer.status_code == 200:
        return 0
    told = _FIRST_BYTE.match(answer.headers.get("Content-Range", ""))
    first = int(told[1]) if told else asked
    if first > asked:
        raise RefusedError(
            f"{answer.url.netloc.decode()} sent bytes from {first} on instead of {asked}",
            remedy="check the registry and any proxies",
        )
    return first
