"""Bundles as referrers of an image (OCI 1.1), the way cosign attaches them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from vllm_ci.evidence.bundle import MEDIA_TYPE, Signed
from vllm_ci.evidence.statement import Statement
from vllm_ci.registry.errors import NotFoundError
from vllm_ci.registry.manifest import OCI_EMPTY, OCI_MANIFEST, Descriptor, Manifest, digest_of
from vllm_ci.registry.repository import Repository

_EMPTY = b"{}"


@dataclass(frozen=True, kw_only=True)
class Attached:
    """A bundle that is attached to an image.

    Attributes:
        digest: Of the manifest that holds it.
        bundle: Its bytes, not yet looked at.
    """

    digest: str
    bundle: bytes


def attach(repository: Repository, image: str, *bundles: Signed) -> None:
    """Attach bundles to the image with digest ``image``, which is there.

    The same bundle gives the same attachment: attaching it again changes nothing.
    """
    subject = replace(repository.manifest(image).descriptor, artifact_type="", annotations={})
    manifests = []
    for bundle in bundles:
        parts = {digest_of(each): each for each in (_EMPTY, bundle.content)}
        manifest = _manifest(bundle, subject)
        for descriptor in manifest.blobs:
            repository.put_blob(descriptor, partial(_from, parts[descriptor.digest]))
        manifests.append(manifest)
    repository.attach(*manifests)


def _manifest(bundle: Signed, subject: Descriptor) -> Manifest:
    content = bundle.content
    value = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": MEDIA_TYPE,
        "config": Descriptor(media_type=OCI_EMPTY, digest=digest_of(_EMPTY), size=len(_EMPTY)).to_json(),
        "layers": [Descriptor(media_type=MEDIA_TYPE, digest=digest_of(content), size=len(content)).to_json()],
        "subject": subject.to_json(),
        "annotations": {
            "dev.sigstore.bundle.content": "dsse-envelope",
            "dev.sigstore.bundle.predicateType": Statement.parse(bundle.payload).predicate_type,
        },
    }
    return Manifest(content=json.dumps(value, sort_keys=True, separators=(",", ":")).encode(), media_type=OCI_MANIFEST)


def _from(content: bytes, start: int) -> list[bytes]:
    return [content[start:]]


def attached(repository: Repository, image: str) -> Iterator[Attached]:
    """Every bundle that is attached to the image with digest ``image``, in the order of their digests."""
    for descriptor in sorted(repository.referrers(image), key=lambda each: each.digest):
        if descriptor.artifact_type not in (MEDIA_TYPE, OCI_EMPTY):
            continue
        try:
            manifest = repository.manifest(descriptor.digest)
        except NotFoundError:  # listed, and gone: garbage collection got it
            continue
        for layer in manifest.blobs:
            if layer.media_type == MEDIA_TYPE:
                yield Attached(digest=manifest.digest, bundle=repository.blob(layer.digest))
