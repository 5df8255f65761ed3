"""The bill of materials of an image (CycloneDX 1.6): made from the record that the build wrote."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from vllm_ci import __version__
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.image import ImageRef
from vllm_ci.evidence.materials import Materials, Package
from vllm_ci.evidence.refusals import MalformedError
from vllm_ci.evidence.statement import SBOM, Statement

_NAMESPACE = uuid.UUID("8a1f3c62-6c0e-5e0f-9a4e-5b7d1b6f2f10")
_ECOSYSTEM, _SOURCE = "vllm-ci:osv:ecosystem", "vllm-ci:osv:name"


def statement(image: ImageRef, commit: Commit, materials: Materials, *, at: datetime) -> Statement:
    """The statement; the same image gives the same bill, but for the time."""
    bom = Bom(serial_number=uuid.uuid5(_NAMESPACE, image.digest))
    bom.metadata.timestamp = at
    bom.metadata.tools.components.add(Component(name="vllm-ci", version=__version__, type=ComponentType.APPLICATION))
    bom.metadata.component = Component(
        name=image.repository,
        version=image.digest,
        type=ComponentType.CONTAINER,
        bom_ref=image.digest,
        hashes=[_sha256(image.digest.removeprefix("sha256:"))],
    )
    components = [_package(each) for each in materials.packages]
    components += [_file(path, digest) for path, digest in sorted(materials.files.items())]
    bom.components.update(components)
    # Every component is a direct part of the image: locks say nothing about dependencies between packages.
    bom.register_dependency(bom.metadata.component, components)
    predicate = json.loads(JsonV1Dot6(bom).output_as_string())
    return Statement.about(image, commit, SBOM, predicate)


def packages(found: Statement) -> tuple[Package, ...]:
    """The packages of a bill of ours, for a scan.

    Raises:
        MalformedError: It is not a bill of materials of ours.
    """
    try:
        return tuple(
            Package(purl=each["purl"], sha256=each["hashes"][0]["content"], ecosystem=facts[_ECOSYSTEM], source=facts[_SOURCE])
            for each in found.predicate["components"]
            if _ECOSYSTEM in (facts := _properties(each))
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise MalformedError("the bill of materials cannot be read", remedy="publish the image again") from error


def _properties(component: Mapping[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in component.get("properties", ())}


def _package(package: Package) -> Component:
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        purl=PackageURL.from_string(package.purl),
        bom_ref=package.purl,
        hashes=[_sha256(package.sha256)],
        properties=[Property(name=_ECOSYSTEM, value=package.ecosystem), Property(name=_SOURCE, value=package.source)],
    )


def _file(path: str, digest: str) -> Component:
    return Component(name=path, type=ComponentType.FILE, bom_ref=f"file:{path}", hashes=[_sha256(digest)])


def _sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)
