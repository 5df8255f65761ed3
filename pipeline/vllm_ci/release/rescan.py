"""Checking a published release again: image, evidence, and vulnerabilities known by now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.image import ImageRef
from vllm_ci.evidence.bundle import Signed
from vllm_ci.evidence.predicates import sbom, scan
from vllm_ci.evidence.statement import SBOM
from vllm_ci.evidence.verify import Findings, check_image
from vllm_ci.registry.repository import Repository
from vllm_ci.release.gathering import findings_of, sign, unknown
from vllm_ci.release.record import Release
from vllm_ci.release.setup import Setup


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What is known now.

    Attributes:
        findings: Verified evidence, the new scan included.
        bundles: The new scan, still to be attached.
    """

    findings: Findings
    bundles: tuple[Signed, ...] = ()

    @classmethod
    def nothing(cls) -> Looked:
        """Of an image that is gone or altered."""
        return cls(findings=Findings(image=""))

    @property
    def steps(self) -> list[str]:
        """What is to be done with it."""
        return ["attach scan"] * len(self.bundles)


def look(setup: Setup, repository: Repository, release: Release, *, osv: Path | None = None, now: datetime) -> Looked:
    """Check a release's image and evidence; with OSV data, scan its signed bill of materials.

    Raises:
        NotFoundError: The image is gone.
        AlteredImageError: It is not what it was.
        UsageError: A scan was requested, and there is no bill of materials.
    """
    check_image(repository, release.digest)
    findings = findings_of(setup, repository, release, now=now)
    if osv is None:
        return Looked(findings=findings)
    bills = findings.of(SBOM)
    if not bills:
        raise UsageError(f"{release.commit[:12]} has no verified bill of materials to scan", remedy="publish it again")
    found = scan.by_osv(sbom.packages(bills[-1].statement), osv, at=now)
    image = ImageRef(repository=setup.subject, digest=release.digest)
    statement = scan.statement(image, Commit(sha=release.commit), found)
    bundles = sign(setup, unknown([statement], findings))
    again = findings_of(setup, repository, release, more=bundles, now=now)
    return Looked(findings=again, bundles=tuple(bundles))
