"""What a channel requires of an image: data, and a pure function over verified evidence.

Missing data refuses. The newest statement of a kind counts, so a later failure beats an earlier pass; of two of the same
second, the worse.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timedelta

from vllm_ci.domain import refs
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.report import Verdict
from vllm_ci.evidence import strict
from vllm_ci.evidence.osv import Severity
from vllm_ci.evidence.predicates import performance, provenance, scan, test_result
from vllm_ci.evidence.predicates.test_result import TestResult
from vllm_ci.evidence.refusals import MalformedError
from vllm_ci.evidence.statement import PERFORMANCE, PROVENANCE, SBOM, SCAN, SIGNATURE, TEST_RESULT
from vllm_ci.evidence.verify import Evidence, Findings


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """A vulnerability that is accepted until a date.

    Attributes:
        id: Of the vulnerability, or one of its aliases.
        reason: Why.
        until: Last day of that.
    """

    id: str
    reason: str
    until: date


@dataclass(frozen=True, kw_only=True)
class ScanRule:
    """What a vulnerability scan must show.

    Attributes:
        max_age_days: Oldest data it may have been made with.
        fail_on: Least severity that refuses.
        accept: Vulnerabilities that do not.
    """

    max_age_days: float
    fail_on: Severity = Severity.CRITICAL
    accept: tuple[Accepted, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What an image must have.

    Attributes:
        tests: Verdicts that are good enough, by stage.
        signers: Whose evidence counts; empty: everybody's who is trusted.
        approvals: Who must have signed the image besides (``cosign sign``).
        refs: Patterns (:mod:`vllm_ci.domain.refs`) of branches and tags that may be released; empty: all.
        pull_requests: Images of runs for a pull request may be released.
        sbom: A bill of materials must be there.
        scan: Requirements for a vulnerability scan, if any.
        after: Channel that the image must have been in.
        soak_hours: For how long.
        compared_with: Channel whose current image the performance result must be a comparison with.
    """

    tests: Mapping[str, tuple[Verdict, ...]] = field(default_factory=dict)
    signers: tuple[str, ...] = ()
    approvals: tuple[str, ...] = ()
    refs: tuple[str, ...] = ()
    pull_requests: bool = False
    sbom: bool = True
    scan: ScanRule | None = None
    after: str = ""
    soak_hours: float = 0.0
    compared_with: str = ""

    @property
    def digest(self) -> str:
        """Hex sha256 of the policy: it identifies the policy that was evaluated."""
        return hashlib.sha256(strict.canonical(_plain(asdict(self)))).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that a decision is made from.

    Attributes:
        commit: 40-hex id that is to be released.
        findings: What is verified and what is refused about the image.
        stays: For how long the image was current, by channel; absent: it never was there.
        now: The present.
        pull_request: Number of the current run's pull request, empty when there is none.
        current: Digest of the image that a channel points to, by channel.
    """

    commit: str
    findings: Findings
    stays: Mapping[str, timedelta]
    now: datetime
    pull_request: str = ""
    current: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RuleResult:
    """What a rule expected and what was found."""

    rule: str
    expected: str
    got: str
    ok: bool

    def __str__(self) -> str:
        return f"{self.rule}: expected {self.expected}, got {self.got}"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether an image may go to a channel, and why.

    Attributes:
        rules: Every rule and its result.
        policy: Hex sha256 of the policy.
        evidence: Digests of the attachments that it was made from.
    """

    rules: tuple[RuleResult, ...]
    policy: str
    evidence: tuple[str, ...]

    @property
    def allowed(self) -> bool:
        """All rules hold, and there were some."""
        return bool(self.rules) and all(each.ok for each in self.rules)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The rules that do not hold, in words."""
        return tuple(str(each) for each in self.rules if not each.ok)


def decide(policy: Policy, facts: Facts) -> Decision:
    """Evaluate every rule."""
    counted = _Counted(policy, facts)
    return Decision(
        rules=tuple(rule for ask in RULES for rule in ask(policy, facts, counted)),
        policy=policy.digest,
        evidence=tuple(sorted(each.digest for each in counted.evidence)),
    )


def expectations(policy: Policy) -> Iterator[tuple[str, str]]:
    """Every rule of a policy and what it expects, without an image at hand."""
    empty = Facts(commit="0" * 40, findings=Findings(image=""), stays={}, now=datetime.fromisoformat("1970-01-01T00:00:00Z"))
    yield from ((each.rule, each.expected) for each in decide(policy, empty).rules)


class _Counted:
    """The evidence that counts: of allowed signers, readable, newest last."""

    def __init__(self, policy: Policy, facts: Facts) -> None:
        self.evidence = [each for each in facts.findings.evidence if not policy.signers or each.signer in policy.signers]
        self._ignored = len(facts.findings.evidence) - len(self.evidence)
        self._refused = facts.findings.refused

    def newest(self, kind: str) -> Evidence | None:
        """The statement of a kind that counts."""
        found = [each for each in self.evidence if each.statement.predicate_type == kind]
        return max(found, key=lambda each: each.at, default=None)

    def tests(self) -> dict[str, tuple[TestResult, Evidence]]:
        """Result that counts, by stage; one that cannot be read counts as errored, now and for every stage it might be."""
        order = [Verdict.PASSED, Verdict.INCONCLUSIVE, Verdict.ERRORED, Verdict.FAILED]
        found: dict[str, tuple[TestResult, Evidence]] = {}
        for evidence in self.evidence:
            if evidence.statement.predicate_type != TEST_RESULT:
                continue
            result = test_result.read(evidence.statement)
            before = found.get(result.stage)
            rank = (result.finished, order.index(result.verdict))
            if before is None or rank > (before[0].finished, order.index(before[0].verdict)):
                found[result.stage] = result, evidence
        return found

    def baseline(self) -> str:
        """What the newest comparison was made with, in words; of a first release there is none."""
        newest = self.newest(PERFORMANCE)
        if newest is None:
            return ", compared with nothing (first release)"
        try:
            return f", compared with {performance.read(newest.statement).baseline[:19]}"
        except MalformedError as error:
            return f" ({error.message})"

    def nothing(self, what: str) -> str:
        """A description of what is missing, and of what was ignored."""
        notes = [f"{self._ignored} by other signers"] if self._ignored else []
        notes += sorted({refusal.message for refusal in self._refused.values()})
        return f"no {what}" + (f" ({'; '.join(notes)})" if notes else "")


def _provenance(policy: Policy, facts: Facts, counted: _Counted) -> Iterator[RuleResult]:
    found = counted.newest(PROVENANCE)
    expected = "a provenance of its commit"
    commit: Commit | None = None
    got = counted.nothing("provenance")
    if found:
        commit, problem = _read_commit(found)
        got = problem or (f"commit {commit.sha[:12]}, signed by {found.signer}" if commit else got)
        if commit and commit.sha != facts.commit:
            got += f", not {facts.commit[:12]}"
    yield RuleResult(rule="provenance", expected=expected, got=got, ok=commit is not None and commit.sha == facts.commit)
    clean = commit is not None and not commit.dirty
    yield RuleResult(rule="clean", expected="a clean work tree", got="clean" if clean else "dirty or unknown", ok=clean)
    if not policy.pull_requests:
        yield _no_pull_request(commit, facts)
    if policy.refs:
        ref = commit.ref if commit else ""
        ok = any(refs.matches(ref, pattern) for pattern in policy.refs)
        yield RuleResult(rule="ref", expected=" or ".join(policy.refs), got=ref or "none that is confirmed", ok=ok)


def _no_pull_request(commit: Commit | None, facts: Facts) -> RuleResult:
    number = facts.pull_request or (commit.pull_request if commit else "")
    return RuleResult(
        rule="pull_request",
        expected="no pull request, or `pull_requests: true` in the channel's policy",
        got=f"pull request {number}" if number else "none" if commit else "unknown",
        ok=commit is not None and not number,
    )


def _read_commit(found: Evidence) -> tuple[Commit | None, str]:
    try:
        return provenance.commit_of(found.statement), ""
    except MalformedError as error:
        return None, error.message


def _sbom(policy: Policy, _facts: Facts, counted: _Counted) -> Iterator[RuleResult]:
    if policy.sbom:
        found = counted.newest(SBOM)
        got = f"{len(found.statement.predicate.get('components', ()))} components" if found else counted.nothing("bill")
        yield RuleResult(rule="sbom", expected="a bill of materials", got=got, ok=found is not None)


def _tests(policy: Policy, _facts: Facts, counted: _Counted) -> Iterator[RuleResult]:
    try:
        found, problem = counted.tests(), ""
    except MalformedError as error:
        found, problem = {}, error.message
    for stage, verdicts in policy.tests.items():
        got, ok = problem or counted.nothing("test result"), False
        if stage in found:
            result, evidence = found[stage]
            got = f"{result.verdict.value}, {result.finished:%Y-%m-%d %H:%M} UTC, signed by {evidence.signer}"
            ok = result.verdict in verdicts
            got += counted.baseline() if stage == "performance" else ""
        yield RuleResult(rule=f"tests.{stage}", expected=" or ".join(each.value for each in verdicts), got=got, ok=ok)


def _compared(policy: Policy, facts: Facts, counted: _Counted) -> Iterator[RuleResult]:
    """An older baseline says nothing about the step from the channel's present image to this one."""
    channel = policy.compared_with
    if not channel:
        return
    current, evidence = facts.current.get(channel, ""), counted.newest(PERFORMANCE)
    expected = f"a comparison with the image of {channel}" + (f", {current[:19]}" if current else "")
    if not current and facts.findings.image:
        got, ok = f"{channel} has no release", True
    elif facts.findings.image and channel in facts.stays:
        # Needed for a rollback, and for looking at a release after it was made.
        got, ok = f"it is, or was, the image of {channel} itself", True
    elif evidence is None:
        got, ok = counted.nothing("comparison"), False
    else:
        got, ok = _baseline(evidence, current)
    yield RuleResult(rule="performance.baseline", expected=expected, got=got, ok=ok)


def _baseline(evidence: Evidence, current: str) -> tuple[str, bool]:
    try:
        baseline = performance.read(evidence.statement).baseline
    except MalformedError as error:
        return error.message, False
    return f"compared with {baseline[:19]}, signed by {evidence.signer}", baseline == current


def _scan(policy: Policy, facts: Facts, counted: _Counted) -> Iterator[RuleResult]:
    rule = policy.scan
    if rule is None:
        return
    age = f"data of the last {rule.max_age_days:g} days"
    worst = f"nothing of severity {rule.fail_on.name.lower()} or worse"
    evidence = counted.newest(SCAN)
    problem = counted.nothing("scan")
    try:
        found = scan.read(evidence.statement) if evidence else None
    except MalformedError as error:
        found, problem = None, error.message
    if found is None:
        yield RuleResult(rule="scan.age", expected=age, got=problem, ok=False)
        yield RuleResult(rule="scan.severity", expected=worst, got=problem, ok=False)
        return
    old = facts.now - found.dated
    expired = "" if old <= timedelta(days=rule.max_age_days) else ", expired"
    got = f"data of {found.dated:%Y-%m-%d}, {max(old.days, 0)} days old{expired}"
    yield RuleResult(rule="scan.age", expected=age, got=got, ok=not expired)
    accepted = {each.id for each in rule.accept if facts.now.date() <= each.until}
    bad = [each for each in found.findings if each.severity >= rule.fail_on and not accepted & {each.id, *each.aliases}]
    shown = ", ".join(f"{each.id} ({each.severity.name.lower()}) in {each.package}" for each in bad[:3])
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    kept = sum(each.severity >= rule.fail_on for each in found.findings) - len(bad)
    good = f"none of {len(found.findings)}" + (f", {kept} accepted" if kept else "")
    yield RuleResult(rule="scan.severity", expected=worst, got=shown + more or good, ok=not bad)


def _approvals(policy: Policy, facts: Facts, _counted: _Counted) -> Iterator[RuleResult]:
    signed = {each.signer for each in facts.findings.evidence if each.statement.predicate_type == SIGNATURE}
    for name in policy.approvals:
        got = "signed" if name in signed else f"signed by {', '.join(sorted(signed)) or 'no one'}"
        yield RuleResult(rule=f"approval.{name}", expected=f"the image signed by {name}", got=got, ok=name in signed)


def _soak(policy: Policy, facts: Facts, _counted: _Counted) -> Iterator[RuleResult]:
    if not policy.after:
        return
    stay = facts.stays.get(policy.after)
    expected = f"{policy.soak_hours:g} hours in {policy.after}" if policy.soak_hours else f"been in {policy.after}"
    got = f"never in {policy.after}" if stay is None else f"{stay.total_seconds() / 3600:.1f} hours there"
    yield RuleResult(
        rule="soak", expected=expected, got=got, ok=stay is not None and stay >= timedelta(hours=policy.soak_hours)
    )


_Rule = Callable[[Policy, Facts, _Counted], Iterable[RuleResult]]
RULES: tuple[_Rule, ...] = (_provenance, _sbom, _tests, _compared, _scan, _approvals, _soak)


def _plain(value: object) -> object:
    """Dates as text, for a hash."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.isoformat() if isinstance(value, date) else value
