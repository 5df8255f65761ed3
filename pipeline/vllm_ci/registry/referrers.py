"""What is attached to a manifest: by the registry's referrers API, and by tags where a registry has none.

The distribution specification's fallback ("Unavailable Referrers API") is read, changed and written by each client: writers
at the same time lose entries, and garbage collection of untagged manifests eats what the index lists. So each referrer gets
its own tag, ``att-`` + 32 hex digits of its subject + 64 of itself, and the index is always made from those tags: a writer
that was overtaken is listed by the next one, and readers look at the tags as well.
"""

from __future__ import annotations

import json
import threading
from typing import Protocol

from vllm_ci.domain.errors import RegistryError
from vllm_ci.registry.answer import RegistryAnswer
from vllm_ci.registry.errors import NotFoundError, RefusedError
from vllm_ci.registry.manifest import OCI_INDEX, Descriptor, Manifest
from vllm_ci.registry.pages import pages
from vllm_ci.registry.session import Session

_ROUNDS = 5
# One writer at a time in this process; the tags take care of all the others.
_SERIAL = threading.Lock()
# Registries without the referrers API say so in many ways. Of 401 and 403 it cannot be told whether there is a list that this
# account must not see, so they are refusals: a list that is not seen must not pass for an empty one.
_NO_API = frozenset({400, 404, 405, 406, 410, 415, 422, 501})


def listed(session: Session, path: str, *, scope: str) -> tuple[Descriptor, ...] | None:
    """What the referrers API lists, all pages of it; ``None`` where there is no such API.

    Raises:
        RegistryError: The registry refuses, or its pages cannot be followed to the end.
    """
    found: list[Descriptor] | None = None
    try:
        for page in pages(session, path, scope=scope, headers={"Accept": OCI_INDEX}):
            if not _is_list(page):
                if found is None:
                    return None
                raise _no_list(page)
            found = [*(found or ()), *Manifest.parse(page.content, OCI_INDEX).manifests]
    except RefusedError as error:
        if found is None and error.status in _NO_API:
            return None
        raise
    return tuple(found or ())


def _is_list(page: RegistryAnswer) -> bool:
    """Whether it is the API that answered, and not a web page or a proxy: by the media type, and by the body.

    Raises:
        RegistryError: The media type is that of a list, and the body is no JSON.
    """
    kind = page.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    value = page.json()
    if kind == OCI_INDEX and value is None:
        raise _no_list(page)
    said = value.get("mediaType", OCI_INDEX if kind == OCI_INDEX else "") if isinstance(value, dict) else ""
    return said == OCI_INDEX and kind in (OCI_INDEX, "application/json") and isinstance(value.get("manifests", ""), list | None)


def _no_list(page: RegistryAnswer) -> RegistryError:
    kind = page.headers.get("Content-Type") or "unknown type"
    return RegistryError(
        f"{page.host} returned a list of referrers that cannot be read",
        why=f"{page.url[:200]} answered {page.status} with {kind} that is not an index",
        remedy="check the registry and any proxies",
    )


class _Repository(Protocol):
    name: str

    def current(self, reference: str) -> Manifest: ...
    def put_manifest(self, manifest: Manifest, *, tag: str = "") -> None: ...
    def tags(self) -> tuple[str, ...]: ...


class FallbackIndex:
    """The list of referrers that clients keep for a registry."""

    def __init__(self, repository: _Repository) -> None:
        self._repository = repository

    @staticmethod
    def tag(manifest: Manifest) -> str:
        """The tag of a referrer's own."""
        return f"{_prefix(manifest.subject)}{manifest.digest.removeprefix('sha256:')}"

    def read(self, subject: str) -> tuple[Descriptor, ...]:
        """What the index lists and what the tags say, together."""
        found = {each.digest: each for each in self.listed(subject)}
        for tag in self._tags(subject):
            if "sha256:" + tag[-64:] not in found:
                found |= {each.digest: each for each in self._tagged(tag, subject)}
        return tuple(found.values())

    def listed(self, subject: str) -> tuple[Descriptor, ...]:
        """What the index alone lists."""
        index = self._index(subject)
        return index.manifests if index and _is_usable(index, subject) else ()

    def rebuild(self, subject: str) -> None:
        """Write the index from the tags (and from what others listed there), until no tag came in the meantime.

        Some registries take the index's tag for the digest of the subject, and give the image. The list cannot be kept there;
        the referrers' own tags, which :meth:`read` looks at, are then all there is.

        Raises:
            RegistryError: Others never stopped adding.
        """
        with _SERIAL:
            for _ in range(_ROUNDS):
                if not self._is_free(subject):
                    return
                before = self._tags(subject)
                self._write(subject, self.read(subject))
                if not self._is_free(subject):
                    return
                found = {each.digest for each in self.listed(subject)}
                if self._tags(subject) == before and all("sha256:" + tag[-64:] in found for tag in before):
                    return
        raise RegistryError(
            f"the list of referrers of {subject} in {self._repository.name} kept changing",
            why="other processes are attaching statements to the same image",
            remedy="run the command again: nothing is lost, each statement has its own tag",
        )

    def _is_free(self, subject: str) -> bool:
        """Whether the index can be kept under its tag."""
        index = self._index(subject)
        return index is None or _is_usable(index, subject)

    def _write(self, subject: str, entries: tuple[Descriptor, ...]) -> None:
        value = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [each.to_json() for each in entries]}
        content = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
        self._repository.put_manifest(Manifest(content=content, media_type=OCI_INDEX), tag=_index_tag(subject))

    def _index(self, subject: str) -> Manifest | None:
        try:
            return self._repository.current(_index_tag(subject))
        except NotFoundError:
            return None

    def _tags(self, subject: str) -> tuple[str, ...]:
        return tuple(tag for tag in self._repository.tags() if tag.startswith(_prefix(subject)))

    def _tagged(self, tag: str, subject: str) -> tuple[Descriptor, ...]:
        try:
            manifest = self._repository.current(tag)
        except NotFoundError:  # deleted since the tags were listed
            return ()
        return (manifest.descriptor,) if manifest.subject == subject else ()


def _is_usable(index: Manifest, subject: str) -> bool:
    """An image may be an index itself, and its platforms are no referrers."""
    return index.is_index and index.digest != subject


def _index_tag(subject: str) -> str:
    return subject.replace(":", "-")


def _prefix(subject: str) -> str:
    return f"att-{subject.removeprefix('sha256:')[:32]}"
