"""The known vulnerabilities of an image (in-toto vulns v0.2), by OSV data and its bill of materials or from another scanner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from vllm_ci import __version__
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import ConfigError
from vllm_ci.domain.image import ImageRef
from vllm_ci.evidence import osv, strict
from vllm_ci.evidence.materials import Package
from vllm_ci.evidence.osv import Severity, Vulnerability
from vllm_ci.evidence.refusals import MalformedError, Refusal
from vllm_ci.evidence.statement import SCAN, Statement, moment, timestamp


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a scan found.

    Attributes:
        scanner: URI of the scanner.
        version: Its version.
        updated: Date of its data.
        finished: When it was done.
        findings: Worst first.
    """

    scanner: str
    version: str
    updated: datetime
    finished: datetime
    findings: tuple[Vulnerability, ...]

    @property
    def dated(self) -> datetime:
        """What its age is counted from: a scan of today by last year's data is last year's scan."""
        return min(self.updated, self.finished)


def by_osv(packages: Iterable[Package], data: Path, *, at: datetime) -> Scan:
    """Look packages up in OSV data.

    Raises:
        ConfigError: The data is not there or not OSV's.
    """
    database = osv.read(data)
    found = osv.find(database, packages)
    return Scan(scanner="pkg:pypi/vllm-ci", version=__version__, updated=database.updated, finished=at, findings=found)


def from_scanner(file: Path, image: ImageRef, *, at: datetime) -> Scan:
    """The result of Trivy or Grype, from the JSON they write.

    Raises:
        ConfigError: It is neither's, or says nothing of its data's date.
        Refusal: It is about another image.
    """
    try:
        value = strict.loads(file.read_bytes(), str(file))
        if "matches" in value and "descriptor" in value:
            return _grype(value, image, at)
        if "SchemaVersion" in value:
            return _trivy(value, image, at)
    except Refusal:
        raise
    except (OSError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file} cannot be read as a scanner's result: {type(error).__name__}: {error}") from error
    raise ConfigError(
        f"{file} is not a result of Trivy or Grype", remedy="write it with --format json, or give OSV data instead"
    )


def statement(image: ImageRef, commit: Commit, scan: Scan) -> Statement:
    """The statement."""
    predicate = {
        "scanner": {
            "uri": scan.scanner,
            "version": scan.version,
            "db": {"lastUpdate": timestamp(scan.updated)},
            "result": [_result(each) for each in scan.findings],
        },
        "metadata": {"scanStartedOn": timestamp(scan.finished), "scanFinishedOn": timestamp(scan.finished)},
    }
    return Statement.about(image, commit, SCAN, predicate)


def read(found: Statement) -> Scan:
    """What a statement says.

    Raises:
        MalformedError: It is not readable.
    """
    try:
        scanner = found.predicate["scanner"]
        return Scan(
            scanner=str(scanner["uri"]),
            version=str(scanner.get("version", "")),
            updated=moment(scanner["db"]["lastUpdate"]),
            finished=moment(found.predicate["metadata"]["scanFinishedOn"]),
            findings=tuple(_finding(each) for each in scanner["result"]),
        )
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise MalformedError("a scan cannot be read", remedy="scan again") from error


def _result(finding: Vulnerability) -> dict[str, Any]:
    facts = {"package": finding.package, "fixed": finding.fixed, "aliases": " ".join(finding.aliases)}
    return {
        "id": finding.id,
        "severity": [
            {"method": "rating", "score": finding.severity.name.lower()},
            *([{"method": "cvss_score", "score": finding.score}] if finding.score else []),
        ],
        "annotations": [{"key": key, "value": value} for key, value in facts.items() if value],
    }


def _finding(result: Mapping[str, Any]) -> Vulnerability:
    facts = {each["key"]: each["value"] for each in result.get("annotations", ())}
    scores = {each["method"]: each["score"] for each in result["severity"]}
    score = scores.get("cvss_score", "")
    rating = Severity.named(scores["rating"]) if "rating" in scores else Severity.scored(float(score))
    return Vulnerability(
        id=str(result["id"]),
        package=str(facts.get("package", "")),
        severity=rating,
        score=str(score),
        aliases=tuple(str(facts.get("aliases", "")).split()),
        fixed=str(facts.get("fixed", "")),
    )


def _sorted(findings: Iterable[Vulnerability]) -> tuple[Vulnerability, ...]:
    return tuple(sorted(findings, key=lambda each: (-each.severity, each.id, each.package)))


def _trivy(value: Mapping[str, Any], image: ImageRef, at: datetime) -> Scan:
    digests = [str(each).rpartition("@")[2] for each in (value.get("Metadata") or {}).get("RepoDigests") or ()]
    _same_image(digests, image)
    created = value.get("CreatedAt")
    if not created:
        raise ConfigError("Trivy's result says nothing of when it was made", remedy="use a newer Trivy")
    findings = [
        Vulnerability(
            id=str(each["VulnerabilityID"]),
            package=f"{each['PkgName']} {each.get('InstalledVersion', '')}".strip(),
            severity=Severity.named(str(each.get("Severity", ""))),
            fixed=str(each.get("FixedVersion", "")),
        )
        for result in value.get("Results") or ()
        for each in result.get("Vulnerabilities") or ()
    ]
    moment_made = _fraction(str(created))
    return Scan(
        scanner="pkg:github/aquasecurity/trivy", version="", updated=moment_made, finished=at, findings=_sorted(findings)
    )


def _grype(value: Mapping[str, Any], image: ImageRef, at: datetime) -> Scan:
    target = (value.get("source") or {}).get("target")
    digests = []
    if isinstance(target, dict):
        digests = [str(each).rpartition("@")[2] for each in target.get("repoDigests") or ()] + [
            str(target.get("manifestDigest", ""))
        ]
    _same_image([each for each in digests if each], image)
    descriptor = value["descriptor"]
    database = descriptor.get("db") or {}
    built = database.get("built") or (database.get("status") or {}).get("built")
    if not built:
        raise ConfigError("Grype's result says nothing of the date of its data", remedy="use a newer Grype")
    findings = [
        Vulnerability(
            id=str(each["vulnerability"]["id"]),
            package=f"{each['artifact']['name']} {each['artifact'].get('version', '')}".strip(),
            severity=Severity.named(str(each["vulnerability"].get("severity", ""))),
            fixed=" ".join((each["vulnerability"].get("fix") or {}).get("versions") or ()),
        )
        for each in value["matches"]
    ]
    return Scan(
        scanner="pkg:github/anchore/grype",
        version=str(descriptor.get("version", "")),
        updated=_fraction(str(built)),
        finished=at,
        findings=_sorted(findings),
    )


def _same_image(digests: Iterable[str], image: ImageRef) -> None:
    found = list(digests)
    if image.digest not in found:
        raise MalformedError(
            f"the scan is about {found[0][:19] if found else 'an image without a digest'}, not about {image.digest[:19]}",
            remedy=f"scan {image.reference}",
        )


def _fraction(text: str) -> datetime:
    """Go writes nanoseconds, which Python does not read."""
    head, dot, tail = text.partition(".")
    digits = len(tail) - len(tail.lstrip("0123456789"))
    return moment(f"{head}.{tail[: min(digits, 6)]}{tail[digits:]}" if dot else text)
