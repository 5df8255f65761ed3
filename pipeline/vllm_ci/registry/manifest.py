"""Descriptors and manifests of the OCI image specification 1.1, and Docker's schema 2, which names the same things."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from vllm_ci.domain.errors import RegistryError
from vllm_ci.registry.errors import DigestError
from vllm_ci.registry.reference import is_digest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFEST_TYPES = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST)


def digest_of(content: bytes) -> str:
    """``sha256:`` digest of ``content``."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """A reference to content, by digest (image specification, ``descriptor.md``).

    Attributes:
        media_type: What the bytes are.
        digest: Their sha256 digest.
        size: Their number.
        artifact_type: Of a manifest: what it is about.
        annotations: Free text by key.
        platform: Of a manifest in an index: ``os/architecture[/variant]``, empty when not said.
    """

    media_type: str
    digest: str
    size: int
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: str = ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Descriptor:
        """A descriptor from its JSON.

        Raises:
            RegistryError: A field is missing or has the wrong type.
        """
        try:
            digest, size, media_type = str(value["digest"]), int(value["size"]), str(value["mediaType"])
            platform = value.get("platform") or {}
            where = "/".join(str(platform[key]) for key in ("os", "architecture", "variant") if platform.get(key))
            annotations = dict(value.get("annotations") or {})
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise RegistryError(f"a manifest contains an invalid descriptor: {value!r}") from error
        if not is_digest(digest) or size < 0:
            raise RegistryError(f"a manifest contains a descriptor with an invalid digest or size: {value!r}")
        return cls(
            media_type=media_type,
            digest=digest,
            size=size,
            artifact_type=str(value.get("artifactType") or ""),
            annotations=annotations,
            platform=where,
        )

    def to_json(self) -> dict[str, Any]:
        """Its JSON, without empty fields."""
        value: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.artifact_type:
            value["artifactType"] = self.artifact_type
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        if self.platform:
            value["platform"] = dict(zip(("os", "architecture", "variant"), self.platform.split("/"), strict=False))
        return value


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest or index: exactly these bytes, because the digest is made of them."""

    content: bytes
    media_type: str

    @classmethod
    def parse(cls, content: bytes, media_type: str = "") -> Manifest:
        """A manifest from its bytes; their own ``mediaType`` beats the one they came with.

        Raises:
            RegistryError: They are not a manifest of a kind spoken here.
        """
        try:
            value = json.loads(content)
            said = str(value.get("mediaType") or "")
        except (ValueError, AttributeError, RecursionError) as error:
            kind = media_type or "unknown type"
            raise RegistryError(
                f"not a manifest: the bytes ({kind}) are not a JSON object",
                remedy="check the registry's address: a web page or a proxy may answer in its place",
            ) from error
        found = said or media_type.partition(";")[0].strip()
        if found not in MANIFEST_TYPES:
            found = OCI_INDEX if "manifests" in value else OCI_MANIFEST if "layers" in value else found
        if found not in MANIFEST_TYPES:
            raise RegistryError(
                f"manifests of type {found or 'unknown'!r} are not supported", remedy="use an OCI or Docker v2 image"
            )
        _check_shape(value, found)
        return cls(content=content, media_type=found)

    @cached_property
    def digest(self) -> str:
        """Digest of the bytes."""
        return digest_of(self.content)

    @cached_property
    def json(self) -> dict[str, Any]:
        """The bytes, decoded; not to be changed."""
        value: dict[str, Any] = json.loads(self.content)
        return value

    @property
    def descriptor(self) -> Descriptor:
        """Descriptor of the manifest itself, with the artifact type by the rule of the referrers API."""
        config = self.json.get("config") or {}
        kind = self.json.get("artifactType") or (config.get("mediaType", "") if self.media_type == OCI_MANIFEST else "")
        return Descriptor(
            media_type=self.media_type,
            digest=self.digest,
            size=len(self.content),
            artifact_type=str(kind),
            annotations=dict(self.json.get("annotations") or {}),
        )

    @property
    def is_index(self) -> bool:
        """Whether it lists manifests instead of layers."""
        return self.media_type in (OCI_INDEX, DOCKER_LIST)

    @property
    def manifests(self) -> tuple[Descriptor, ...]:
        """Of an index: its manifests."""
        return tuple(Descriptor.from_json(each) for each in self.json.get("manifests") or ()) if self.is_index else ()

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Of a manifest: config and layers, each digest once; layers that say where else they are fetched are included."""
        if self.is_index:
            return ()
        found = [Descriptor.from_json(each) for each in (self.json["config"], *(self.json.get("layers") or ()))]
        return tuple({each.digest: each for each in found}.values())

    @property
    def subject(self) -> str:
        """Digest of the manifest that this one is about, empty when none."""
        return str((self.json.get("subject") or {}).get("digest", ""))

    def require(self, digest: str, source: str) -> Manifest:
        """Itself, when it has this digest.

        Raises:
            DigestError: It has another one.
        """
        if self.digest != digest:
            raise DigestError(
                f"{source} gave a manifest with digest {self.digest} for {digest}",
                why="the registry, or something between it and here, altered it",
                remedy="do not use this registry until that is explained",
            )
        return self


_INDEX_SHAPE: dict[str, type] = {"manifests": list, "subject": dict, "annotations": dict}
_MANIFEST_SHAPE: dict[str, type] = {"config": dict, "layers": list, "subject": dict, "annotations": dict}


def _check_shape(value: dict[str, Any], media_type: str) -> None:
    """Fields that are read later have their specified types; ``null`` is as good as absent (Go's empty lists)."""
    shape = _INDEX_SHAPE if media_type in (OCI_INDEX, DOCKER_LIST) else _MANIFEST_SHAPE
    wrong = [name for name, kind in shape.items() if value.get(name) is not None and not isinstance(value[name], kind)]
    missing = [name for name in ("config",) if name in shape and value.get(name) is None]
    if wrong or missing:
        raise RegistryError(
            f"not a manifest: {(wrong or missing)[0]!r} is {'malformed' if wrong else 'missing'}",
            why=f"the bytes say that they are {media_type}",
            remedy="check what was pushed there",
        )
