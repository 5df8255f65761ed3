"""Referrers where a registry has no referrers API: an index under a tag, rebuilt from a tag for each referrer.

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
from vllm_ci.registry.errors import NotFoundError
from vllm_ci.registry.manifest import OCI_INDEX, Descriptor, Manifest

_ROUNDS = 5
# One writer at a time in this process; the tags take care of all the others.
_SERIAL = threading.Lock()


class _Repository(Protocol):
    name: str

    def manifest(self, reference: str) -> Manifest: ...
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
        found = {each.digest: each for each in self._listed(subject)}
        for tag in self._tags(subject):
            if "sha256:" + tag[-64:] not in found:
                found |= {each.digest: each for each in self._tagged(tag, subject)}
        return tuple(found.values())

    def rebuild(self, subject: str) -> None:
        """Write the index from the tags (and from what others listed there), until no tag came in the meantime.

        Raises:
            RegistryError: Others never stopped adding.
        """
        with _SERIAL:
            for _ in range(_ROUNDS):
                before = self._tags(subject)
                self._write(subject, self.read(subject))
                listed = {each.digest for each in self._listed(subject)}
                if self._tags(subject) == before and all("sha256:" + tag[-64:] in listed for tag in before):
                    return
        raise RegistryError(
            f"the list of referrers of {subject} in {self._repository.name} kept changing",
            why="others attach statements to the same image at the same moment",
            remedy="run the command again: nothing is lost, each statement has its own tag",
        )

    def _write(self, subject: str, entries: tuple[Descriptor, ...]) -> None:
        value = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [each.to_json() for each in entries]}
        content = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
        self._repository.put_manifest(Manifest(content=content, media_type=OCI_INDEX), tag=subject.replace(":", "-"))

    def _listed(self, subject: str) -> tuple[Descriptor, ...]:
        try:
            return self._repository.manifest(subject.replace(":", "-")).manifests
        except NotFoundError:
            return ()

    def _tags(self, subject: str) -> tuple[str, ...]:
        return tuple(tag for tag in self._repository.tags() if tag.startswith(_prefix(subject)))

    def _tagged(self, tag: str, subject: str) -> tuple[Descriptor, ...]:
        try:
            manifest = self._repository.manifest(tag)
        except NotFoundError:  # deleted since the tags were listed
            return ()
        return (manifest.descriptor,) if manifest.subject == subject else ()


def _prefix(subject: str) -> str:
    return f"att-{subject.removeprefix('sha256:')[:32]}"
