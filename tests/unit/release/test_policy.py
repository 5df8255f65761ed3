"""Every rule: what it expects, what it gets, and that missing data refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from datetime import date, datetime, timedelta

import pytest

from registries.evidence import NOW, commit_of, report_of, statements_of
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.report import StageResult, Verdict
from vllm_ci.evidence.osv import Severity, Vulnerability
from vllm_ci.evidence.predicates import performance, scan, test_result
from vllm_ci.evidence.refusals import OtherKeyError
from vllm_ci.evidence.statement import SIGNATURE, TEST_RESULT, Statement
from vllm_ci.evidence.verify import Evidence, Findings, made_at
from vllm_ci.release.policy import Accepted, Decision, Facts, Policy, ScanRule, decide, expectations

IMAGE = ImageRef(repository="r.example.com/name", digest="sha256:" + "f" * 64)
COMMIT = commit_of(1)
FULL = Policy(
    tests={"unit": (Verdict.PASSED,), "streaming": (Verdict.PASSED, Verdict.INCONCLUSIVE)},
    approvals=("anna",),
    refs=("main", "release/*", "refs/tags/v*"),
    scan=ScanRule(max_age_days=7, fail_on=Severity.HIGH),
    after="staging",
    soak_hours=2,
)


def evidence(statements: Iterable[Statement], signer: str = "ci") -> list[Evidence]:
    return [
        Evidence(statement=each, signer=signer, at=made_at(each), digest=f"sha256:{signer}-{number}")
        for number, each in enumerate(statements)
    ]


def scanned(*findings: Vulnerability, age_days: float = 1) -> Statement:
    at = NOW - timedelta(days=age_days)
    return scan.statement(IMAGE, COMMIT, scan.Scan(scanner="s", version="1", updated=at, finished=NOW, findings=findings))


def everything() -> list[Evidence]:
    good = evidence([*statements_of(IMAGE, COMMIT), scanned()])
    return good + evidence([Statement.about(IMAGE, None, SIGNATURE, {})], "anna")


def decided(
    policy: Policy = FULL, found: list[Evidence] | None = None, *, stay_hours: float | None = 3, commit: str = COMMIT.sha
) -> Decision:
    findings = Findings(image=IMAGE.digest, evidence=tuple(everything() if found is None else found))
    stays = {} if stay_hours is None else {"staging": timedelta(hours=stay_hours)}
    return decide(policy, Facts(commit=commit, findings=findings, stays=stays, now=NOW))


def failing(decision: Decision) -> list[str]:
    return [each.rule for each in decision.rules if not each.ok]


def test_all_rules_hold_for_good_evidence() -> None:
    decision = decided()
    assert decision.allowed
    assert [each.rule for each in decision.rules] == [
        "provenance", "clean", "pull_request", "ref", "sbom", "tests.unit", "tests.streaming", "scan.age", "scan.severity",
        "approval.anna", "soak",
    ]  # fmt: skip
    assert len(decision.evidence) == len(set(decision.evidence)) > 5


def test_no_evidence_fails_every_rule() -> None:
    decision = decided(found=[], stay_hours=None)
    assert all(not each.ok for each in decision.rules)
    assert not decision.allowed


@pytest.mark.parametrize(
    ("kind", "rules"),
    [
        ("provenance", ["provenance", "clean", "pull_request", "ref"]),
        ("sbom", ["sbom"]),
        ("test result", ["tests.unit", "tests.streaming"]),
        ("scan", ["scan.age", "scan.severity"]),
        ("signature", ["approval.anna"]),
    ],
)
def test_each_missing_statement_fails_its_own_rules(kind: str, rules: list[str]) -> None:
    assert failing(decided(found=[each for each in everything() if each.kind != kind])) == rules


def test_a_refused_statement_is_named_where_it_is_missing() -> None:
    findings = Findings(image=IMAGE.digest, refused={"sha256:x": OtherKeyError("signed by another key (hint abc)")})
    decision = decide(Policy(sbom=True), Facts(commit=COMMIT.sha, findings=findings, stays={}, now=NOW))
    assert "no bill (signed by another key (hint abc))" in decision.reasons[-1]


def test_another_commit_is_refused() -> None:
    assert failing(decided(commit=commit_of(2).sha)) == ["provenance"]


@pytest.mark.parametrize(
    ("ref", "ok"),
    [
        ("refs/heads/main", True),
        ("refs/tags/main", False),
        ("refs/pull/main", False),
        ("refs/heads/release/1", True),
        ("refs/heads/release/1/hotfix", False),
        ("refs/tags/v1.2", True),
        ("refs/heads/v1.2", False),
        ("refs/heads/dev", False),
        ("", False),
    ],
)
def test_branches_and_tags_are_told_apart(ref: str, ok: bool) -> None:
    assert decided(found=evidence_from(ref=ref)).allowed is ok


@pytest.mark.parametrize(("ref", "ok"), [("main", True), ("v1.2", True), ("dev", False)])
def test_a_short_ref_of_older_evidence_counts_as_it_did(ref: str, ok: bool) -> None:
    assert decided(found=evidence_from(ref=ref)).allowed is ok


def evidence_from(**commit: str) -> list[Evidence]:
    others = [each for each in everything() if each.kind != "provenance"]
    return others + evidence(statements_of(IMAGE, dataclasses.replace(COMMIT, **commit)))  # type: ignore[arg-type]


def test_a_pull_request_is_released_only_where_the_policy_says_so() -> None:
    found = evidence_from(ref="refs/heads/main", pull_request="7")
    decision = decided(found=found)
    assert failing(decision) == ["pull_request"]
    assert decision.reasons == (
        "pull_request: expected no pull request, or `pull_requests: true` in the channel's policy, got pull request 7",
    )
    assert decided(dataclasses.replace(FULL, pull_requests=True), found).allowed


def test_a_run_for_a_pull_request_releases_nothing_by_older_evidence_either() -> None:
    findings = Findings(image=IMAGE.digest, evidence=tuple(everything()))
    facts = Facts(commit=COMMIT.sha, findings=findings, stays={"staging": timedelta(hours=3)}, now=NOW, pull_request="7")
    assert failing(decide(FULL, facts)) == ["pull_request"]
    assert decide(dataclasses.replace(FULL, pull_requests=True), facts).allowed


def test_the_newest_result_counts_and_the_worse_of_two_at_once() -> None:
    others = [each for each in everything() if each.kind != "test result"]

    def results(*runs: tuple[Verdict, int]) -> list[Evidence]:
        reports = [report_of(COMMIT, IMAGE, {"unit": verdict}, at=NOW - timedelta(minutes=age)) for verdict, age in runs]
        return evidence(each for report in reports for each in test_result.statements(report, IMAGE, b""))

    assert decided(found=others + results((Verdict.FAILED, 20), (Verdict.PASSED, 10))).allowed
    assert failing(decided(found=others + results((Verdict.FAILED, 10), (Verdict.PASSED, 20)))) == ["tests.unit"]
    for verdicts in ((Verdict.PASSED, Verdict.FAILED), (Verdict.FAILED, Verdict.PASSED)):
        assert failing(decided(found=others + results(*((verdict, 10) for verdict in verdicts)))) == ["tests.unit"]


def test_a_result_that_cannot_be_read_fails_the_tests() -> None:
    bad = Statement.about(IMAGE, COMMIT, TEST_RESULT, {"result": "PASSED", "configuration": []})
    unreadable = Evidence(statement=bad, signer="ci", at=NOW, digest="sha256:bad")
    assert failing(decided(found=[*everything(), unreadable])) == ["tests.unit", "tests.streaming"]


@pytest.mark.parametrize(("age", "ok"), [(6.9, True), (7.1, False), (400, False)])
def test_the_age_of_a_scan_is_that_of_its_data(age: float, ok: bool) -> None:
    found = [each for each in everything() if each.kind != "scan"] + evidence([scanned(age_days=age)])
    assert decided(found=found).allowed is ok


def test_severity_and_acceptance() -> None:
    high = Vulnerability(id="GHSA-1", aliases=("CVE-1",), package="a 1", severity=Severity.HIGH)
    low = Vulnerability(id="GHSA-2", package="b 2", severity=Severity.LOW)
    found = [each for each in everything() if each.kind != "scan"] + evidence([scanned(high, low)])
    assert failing(decided(found=found)) == ["scan.severity"]
    for until, ok in ((NOW.date(), True), (date(2026, 11, 19), False)):
        accept = (Accepted(id="CVE-1", reason="r", until=until),)
        policy = dataclasses.replace(FULL, scan=ScanRule(max_age_days=7, fail_on=Severity.HIGH, accept=accept))
        assert decided(policy, found).allowed is ok


@pytest.mark.parametrize(("hours", "ok"), [(None, False), (1.99, False), (2.0, True)])
def test_soak_time(hours: float | None, ok: bool) -> None:
    assert decided(stay_hours=hours).allowed is ok


def test_only_allowed_signers_count() -> None:
    policy = dataclasses.replace(FULL, signers=("release-team",), approvals=())
    assert "other signers" in decided(policy).reasons[0]
    assert decided(dataclasses.replace(policy, signers=("ci",))).allowed


def test_a_policy_has_a_hash_that_changes_with_it() -> None:
    assert FULL.digest == dataclasses.replace(FULL).digest
    assert FULL.digest != dataclasses.replace(FULL, soak_hours=3).digest


def test_a_policy_can_be_told_without_an_image() -> None:
    assert dict(expectations(FULL))["tests.streaming"] == "passed or inconclusive"
    assert dict(expectations(FULL))["soak"] == "2 hours in staging"


def test_a_decision_without_rules_allows_nothing() -> None:
    assert not Decision(rules=(), policy="", evidence=()).allowed


CURRENT, OLDER = "sha256:" + "c" * 64, "sha256:" + "b" * 64
COMPARED = dataclasses.replace(FULL, compared_with="production")


def comparison(baseline: str, *, at: datetime = NOW, verdict: Verdict = Verdict.PASSED) -> Statement:
    """What a run of the stage performance leaves."""
    metrics = {"comparison": {"baseline": baseline, "candidate": IMAGE.digest, "estimates": {"ttft_ms": {"slowdown": 0.01}}}}
    stage = StageResult(name="performance", verdict=verdict, seconds=1.0, metrics=metrics)
    report = dataclasses.replace(report_of(COMMIT, IMAGE, at=at), stages=(stage,))
    (found,) = performance.statements(report, IMAGE)
    return found


def compared(*found: Statement, current: str = CURRENT, been: bool = False) -> Decision:
    everywhere = {"staging": timedelta(hours=3), **({"production": timedelta(hours=1)} if been else {})}
    findings = Findings(image=IMAGE.digest, evidence=(*everything(), *evidence(found)))
    points = {"production": current} if current else {}
    return decide(COMPARED, Facts(commit=COMMIT.sha, findings=findings, stays=everywhere, now=NOW, current=points))


def test_a_comparison_with_the_channels_present_image_is_accepted() -> None:
    assert compared(comparison(CURRENT)).allowed


def test_a_comparison_with_an_older_image_of_the_channel_is_refused_with_both_digests() -> None:
    decision = compared(comparison(OLDER))
    assert failing(decision) == ["performance.baseline"]
    (reason,) = decision.reasons
    assert CURRENT[:19] in reason
    assert OLDER[:19] in reason


def test_the_newest_comparison_counts() -> None:
    later = NOW + timedelta(minutes=5)
    assert compared(comparison(OLDER), comparison(CURRENT, at=later)).allowed
    assert not compared(comparison(CURRENT), comparison(OLDER, at=later)).allowed


def test_without_a_comparison_a_channel_that_has_a_release_refuses() -> None:
    assert failing(compared()) == ["performance.baseline"]


def test_the_first_release_of_a_channel_needs_no_comparison() -> None:
    assert compared(current="").allowed


def test_an_image_that_was_in_the_channel_may_go_back_without_a_new_comparison() -> None:
    assert compared(comparison(OLDER), been=True).allowed


def test_a_policy_without_the_rule_accepts_any_baseline() -> None:
    assert decided(found=[*everything(), *evidence([comparison(OLDER)])]).allowed
    assert "performance.baseline" in dict(expectations(COMPARED))
    assert "performance.baseline" not in dict(expectations(FULL))
