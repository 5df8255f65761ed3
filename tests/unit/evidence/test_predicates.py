"""What statements say, and that it can be read back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from registries.evidence import MATERIALS, NOW, SSL, STAGES, VLLM, commit_of, report_of
from vllm_ci.domain.errors import ConfigError, FailedError
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.report import Verdict
from vllm_ci.evidence import debian_version, osv
from vllm_ci.evidence.materials import Package, materials
from vllm_ci.evidence.osv import Severity
from vllm_ci.evidence.predicates import decision, performance, provenance, sbom, scan, test_result
from vllm_ci.evidence.refusals import MalformedError
from vllm_ci.evidence.statement import Statement
from vllm_ci.images.lockfile import LockedDeb, LockedWheel
from vllm_ci.images.materials import BuiltFrom

IMAGE = ImageRef(repository="r.example.com/team/name", digest="sha256:" + "f" * 64)
COMMIT = commit_of(1)


def again(statement: Statement) -> Statement:
    """As it arrives after a journey."""
    return Statement.parse(statement.payload)


# Provenance -------------------------------------------------------------------------------------------------------------


def test_provenance_names_source_locks_and_packages() -> None:
    found = again(provenance.statement(IMAGE, COMMIT, MATERIALS, started=NOW, finished=NOW, run="https://ci.example.com/1"))
    definition = found.predicate["buildDefinition"]
    digests = [each["digest"] for each in definition["resolvedDependencies"]]
    assert {"gitCommit": COMMIT.sha} in digests
    assert {"sha256": "d" * 64} in digests  # the lock
    assert {"sha256": "a" * 64} in digests  # a wheel
    assert found.predicate["runDetails"]["metadata"]["invocationId"] == "https://ci.example.com/1"
    assert [dict(each.digest) for each in found.subjects] == [{"sha256": "f" * 64}, {"gitCommit": COMMIT.sha}]
    assert provenance.commit_of(found).ref == "refs/heads/main"


def test_a_dirty_tree_has_no_provenance() -> None:
    with pytest.raises(FailedError, match="dirty"):
        provenance.statement(IMAGE, commit_of(1, dirty=True), MATERIALS, started=NOW, finished=NOW)


@pytest.mark.parametrize("parameters", [{}, {"dirty": "no"}, {"dirty": None}])
def test_a_provenance_that_does_not_say_clean_is_dirty(parameters: dict[str, Any]) -> None:
    found = provenance.statement(IMAGE, COMMIT, MATERIALS, started=NOW, finished=NOW)
    definition = {**found.predicate["buildDefinition"], "internalParameters": parameters}
    changed = dataclasses.replace(found, predicate={**found.predicate, "buildDefinition": definition})
    assert provenance.commit_of(changed).dirty


# Bill of materials ------------------------------------------------------------------------------------------------------


def test_the_bill_is_valid_cyclonedx_and_gives_its_packages_back() -> None:
    found = again(sbom.statement(IMAGE, COMMIT, MATERIALS, at=NOW))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(found.predicate)) is None
    assert set(sbom.packages(found)) == {SSL, VLLM}
    files = [each for each in found.predicate["components"] if each["type"] == "file"]
    assert [(each["name"], each["hashes"][0]["content"]) for each in files] == [("/opt/serving/template.jinja", "c" * 64)]


def test_the_same_image_has_the_same_bill() -> None:
    assert sbom.statement(IMAGE, COMMIT, MATERIALS, at=NOW) == sbom.statement(IMAGE, COMMIT, MATERIALS, at=NOW)


def test_packages_are_named_by_their_urls_and_by_where_vulnerabilities_are_listed() -> None:
    wheel = LockedWheel(
        project="Only_Arm", version="1", filename="a.whl", sha256="2" * 64, size_bytes=1, platforms=("linux/arm64",)
    )
    deb = LockedDeb(
        name="libstdc++6",
        version="12.2.0-14",
        architecture="amd64",
        sha256="3" * 64,
        size_bytes=1,
        path="pool/main/g/gcc-12/libstdc++6_12.2.0-14_amd64.deb",
    )
    found = materials(BuiltFrom(wheels=(wheel, wheel), debs=(deb,), suite="bookworm", base="r.example.com/base@sha256:0"))
    assert [(each.name, each.version, each.ecosystem, each.source) for each in found.packages] == [
        ("libstdc++6", "12.2.0-14", "Debian:12", "gcc-12"),
        ("only-arm", "1", "PyPI", "only-arm"),
    ]
    assert found.base == "r.example.com/base@sha256:0"


# Test results -----------------------------------------------------------------------------------------------------------


def test_each_stage_has_a_statement_with_the_hash_of_the_report() -> None:
    report = report_of(COMMIT, IMAGE, {"streaming": Verdict.FAILED, "security": Verdict.INCONCLUSIVE, "unit": Verdict.ERRORED})
    found = [again(each) for each in test_result.statements(report, IMAGE, b"ctrf")]
    results = {result.stage: (result.verdict, each.predicate["result"]) for each in found if (result := test_result.read(each))}
    assert results == {
        "unit": (Verdict.ERRORED, "FAILED"),
        "integration": (Verdict.PASSED, "PASSED"),
        "streaming": (Verdict.FAILED, "FAILED"),
        "security": (Verdict.INCONCLUSIVE, "WARNED"),
    }
    hashes = {each.predicate["configuration"][0]["digest"]["sha256"] for each in found}
    assert hashes == {hashlib.sha256(b"ctrf").hexdigest()}
    assert test_result.read(found[0]).finished == NOW + timedelta(seconds=4)


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (report_of(COMMIT, IMAGE, double=True), "double"),
        (report_of(None, None), "no commit"),
        (report_of(commit_of(1, dirty=True), IMAGE), "dirty"),
        (report_of(COMMIT, dataclasses.replace(IMAGE, digest="sha256:" + "0" * 64)), "about sha256:0000"),
    ],
)
def test_a_report_about_something_else_proves_nothing(report: Any, message: str) -> None:
    with pytest.raises(FailedError, match=message):
        list(test_result.statements(report, IMAGE, b""))


def test_a_result_that_says_two_things_is_refused() -> None:
    [found] = test_result.statements(report_of(COMMIT, IMAGE, {"unit": Verdict.FAILED}, stages=()), IMAGE, b"")
    forged = dataclasses.replace(found, predicate={**found.predicate, "result": "PASSED"})
    with pytest.raises(MalformedError, match="says failed and PASSED"):
        test_result.read(forged)


def test_all_stages_are_there() -> None:
    assert [test_result.read(each).stage for each in test_result.statements(report_of(COMMIT, IMAGE), IMAGE, b"")] == list(
        STAGES
    )


# Scans ------------------------------------------------------------------------------------------------------------------


def entry(name: str, package: dict[str, str], events: list[dict[str, str]], **more: Any) -> dict[str, Any]:
    affected = {"package": package, "ranges": [{"type": "ECOSYSTEM", "events": events}]}
    return {"id": name, "modified": "2026-11-01T00:00:00Z", "affected": [affected], **more}


PYPI = {"ecosystem": "PyPI", "name": "vllm"}
DEBIAN = {"ecosystem": "Debian:12", "name": "openssl"}
CRITICAL = [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}]


def scanned(folder: Path, *entries: dict[str, Any], packages: tuple[Package, ...] = (VLLM, SSL)) -> scan.Scan:
    for each in entries:
        (folder / f"{each['id']}.json").write_text(json.dumps(each))
    return scan.by_osv(packages, folder, at=NOW)


def test_a_scan_finds_what_is_affected_and_says_how_old_its_data_is(tmp_path: Path) -> None:
    found = scanned(
        tmp_path,
        entry("GHSA-1", PYPI, [{"introduced": "0"}, {"fixed": "0.33.0"}], severity=CRITICAL, aliases=["CVE-1"]),
        entry("GHSA-2", PYPI, [{"introduced": "0.1"}, {"fixed": "0.32.0"}], severity=CRITICAL),
        entry("GHSA-3", PYPI, [{"introduced": "0.33"}], severity=CRITICAL),
        entry("GHSA-4", PYPI, [{"introduced": "0"}], withdrawn="2026-01-01T00:00:00Z"),
        entry("GHSA-5", PYPI, [{"introduced": "0"}, {"last_affected": "0.32.0"}], database_specific={"severity": "MODERATE"}),
        entry("DSA-1", DEBIAN, [{"introduced": "0"}, {"fixed": "3.0.15-1~deb12u2"}], modified="2026-11-10T00:00:00Z"),
        entry("DSA-2", DEBIAN, [{"introduced": "0"}, {"fixed": "3.0.15-1~deb12u1"}]),
        entry("OTHER", {"ecosystem": "npm", "name": "vllm"}, [{"introduced": "0"}]),
    )
    assert [(each.id, each.severity, each.fixed) for each in found.findings] == [
        ("GHSA-1", Severity.CRITICAL, "0.33.0"),
        ("DSA-1", Severity.HIGH, "3.0.15-1~deb12u2"),  # nobody rated it
        ("GHSA-5", Severity.MEDIUM, ""),
    ]
    assert found.findings[0].score == "9.8"
    assert found.dated == datetime(2026, 11, 10, tzinfo=UTC)
    assert scan.read(again(scan.statement(IMAGE, COMMIT, found))) == found


def test_data_may_be_one_file_a_list_or_an_archive(tmp_path: Path) -> None:
    one = entry("A", PYPI, [{"introduced": "0"}])
    (tmp_path / "list.json").write_text(json.dumps([one, {**one, "id": "B"}]))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("A.json", json.dumps(one))
    assert osv.read(tmp_path / "list.json").count == 2
    assert osv.read(tmp_path / "all.zip").count == 1
    assert len(osv.find(osv.read(tmp_path), [VLLM])) == 2


@pytest.mark.parametrize("content", ["", "[1]", '{"id": "A"}', "[]"])
def test_what_is_no_data_is_no_clean_bill(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ConfigError):
        osv.read(tmp_path)
    with pytest.raises(ConfigError, match=r"(not|no) OSV data"):
        osv.read(tmp_path / "absent")


def test_versions_named_one_by_one_count_too(tmp_path: Path) -> None:
    value = {"id": "A", "modified": "2026-11-01T00:00:00Z", "affected": [{"package": PYPI, "versions": ["0.31.0", "0.32"]}]}
    assert [each.id for each in scanned(tmp_path, value).findings] == ["A"]


TRIVY = {
    "SchemaVersion": 2,
    "CreatedAt": "2026-11-19T10:00:00.123456789Z",
    "Metadata": {"RepoDigests": [f"r.example.com/team/name@{IMAGE.digest}"]},
    "Results": [
        {
            "Vulnerabilities": [
                {"VulnerabilityID": "CVE-1", "PkgName": "vllm", "InstalledVersion": "0.32.0", "Severity": "CRITICAL"}
            ]
        },
        {"Target": "nothing found"},
    ],
}
GRYPE = {
    "matches": [
        {
            "vulnerability": {"id": "CVE-2", "severity": "Negligible", "fix": {"versions": ["2"]}},
            "artifact": {"name": "x", "version": "1"},
        }
    ],
    "source": {"target": {"manifestDigest": IMAGE.digest, "repoDigests": []}},
    "descriptor": {"version": "0.90", "db": {"status": {"built": "2026-11-18T10:00:00Z"}}},
}


@pytest.mark.parametrize(
    ("value", "expected"),
    [(TRIVY, ("CVE-1", Severity.CRITICAL, 19)), (GRYPE, ("CVE-2", Severity.LOW, 18))],
)
def test_another_scanner_s_result_is_read(value: dict[str, Any], expected: tuple[str, Severity, int], tmp_path: Path) -> None:
    (tmp_path / "scan.json").write_text(json.dumps(value))
    found = scan.from_scanner(tmp_path / "scan.json", IMAGE, at=NOW)
    assert (found.findings[0].id, found.findings[0].severity, found.dated.day) == expected
    with pytest.raises(MalformedError, match="not about"):
        scan.from_scanner(tmp_path / "scan.json", dataclasses.replace(IMAGE, digest="sha256:" + "0" * 64), at=NOW)


@pytest.mark.parametrize(
    "value", [{}, {"SchemaVersion": 2}, {"matches": [], "descriptor": {}}, {"matches": 1, "descriptor": 1}]
)
def test_a_result_of_nobody_is_refused(value: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "scan.json").write_text(json.dumps(value))
    with pytest.raises((ConfigError, MalformedError)):
        scan.from_scanner(tmp_path / "scan.json", IMAGE, at=NOW)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("1.0", "1.1"), ("1.9", "1.10"), ("1.0~rc1", "1.0"), ("1.0~~", "1.0~"), ("1.0", "1.0a"), ("1.0a", "1.0+"), ("9", "1:1"),
        ("1.0-1", "1.0-2"), ("1.0", "1.0-1"), ("3.0.15-1~deb12u1", "3.0.15-1"), ("1.0-1", "1.0.1"),
        ("2.36-9+deb12u9", "2.36-9+deb12u10"),
    ],
)  # fmt: skip
def test_debian_versions_have_dpkg_s_order(older: str, newer: str) -> None:
    assert debian_version.compare(older, newer) == -1
    assert debian_version.compare(newer, older) == 1
    assert debian_version.compare(older, older) == 0


def test_a_missing_revision_is_revision_0() -> None:
    assert debian_version.compare("1.0", "1.0-0") == 0
    assert debian_version.compare("0:1.0", "1.0") == 0


def test_a_decision_names_channel_policy_and_evidence() -> None:
    found = again(
        decision.statement(
            IMAGE, COMMIT, channel="staging", policy="8" * 64, rules=["tests"], evidence=["sha256:" + "9" * 64], at=NOW
        )
    )
    assert found.predicate["properties"] == ["VLLM_CI_RELEASE_staging", "VLLM_CI_RULE_tests"]
    assert found.predicate["verifier"]["policy"]["digest"] == {"sha256": "8" * 64}


def test_a_comparison_is_bound_to_both_digests() -> None:
    image = IMAGE
    baseline = ImageRef(repository="other", digest="sha256:" + "e" * 64)
    report = report_of(commit_of(1), image, {"performance": Verdict.PASSED})
    comparison = {
        "candidate": image.digest,
        "baseline": baseline.digest,
        "baseline_source": "channel production",
        "estimates": {"tpot_ms": {"slowdown": 0.01}},
        "pairs": [{"log_ratios": {"tpot_ms": [0.01]}}],
    }
    with_it = [dataclasses.replace(each, metrics={"comparison": comparison}) for each in report.stages]
    stages = tuple(each for each in with_it if each.name == "performance")
    (statement,) = performance.statements(dataclasses.replace(report, stages=stages), image)
    assert statement.kind == "performance"
    assert [each.digest["sha256"] for each in statement.images] == [image.digest.removeprefix("sha256:")]
    found = performance.read(again(statement))
    assert (found.baseline, found.verdict, found.slowdown) == (baseline.digest, Verdict.PASSED, {"tpot_ms": 0.01})
    first = dataclasses.replace(stages[-1], metrics={"comparison": {**comparison, "baseline": ""}})
    assert not list(performance.statements(dataclasses.replace(report, stages=(first,)), image))
