"""What is known about a commit or a digest: where it was released, and what its evidence says."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime

from vllm_ci.domain.errors import UsageError
from vllm_ci.evidence.predicates.test_result import read
from vllm_ci.evidence.refusals import MalformedError, Refusal
from vllm_ci.evidence.statement import TEST_RESULT
from vllm_ci.evidence.verify import Findings, check_image
from vllm_ci.registry.errors import NotFoundError
from vllm_ci.release import history
from vllm_ci.release.gathering import findings_of, now_or
from vllm_ci.release.record import Record, Release
from vllm_ci.release.setup import Setup


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What is known about a release.

    Attributes:
        release: Commit, digest, tag.
        records: Records of its releases, oldest first.
        current: Channels that point to it.
        tests: Verdict by stage, of the statements that verify.
        findings: All statements.
        problem: Why the image cannot be relied on, empty when it can.
    """

    release: Release
    records: tuple[Record, ...]
    current: tuple[str, ...]
    tests: dict[str, str]
    findings: Findings
    problem: str = ""

    def to_json(self) -> dict[str, object]:
        """What ``--json`` prints."""
        return {
            "commit": self.release.commit,
            "digest": self.release.digest,
            "reference": f"{self.release.repository}@{self.release.digest}",
            "tag": self.release.tag,
            "channels": list(self.current),
            "records": [each.to_json() for each in self.records],
            "tests": self.tests,
            "evidence": evidence_json(self.findings),
            "problem": self.problem,
        }


def show(setup: Setup, key: str, *, now: datetime | None = None) -> tuple[Shown, ...]:
    """Everything about a commit (or its beginning), a tag or a digest, newest release first.

    Raises:
        UsageError: It is not known.
    """
    state = setup.ledger.read()
    wanted = key.removeprefix("sha256:")
    found: dict[str, Release] = {}
    for record in reversed(state.records):
        release = record.release
        if release.commit.startswith(wanted) or release.digest.removeprefix("sha256:").startswith(wanted) or release.tag == key:
            found.setdefault(release.digest, release)
    if not found or len(wanted) < 7:
        raise UsageError(f"{key} was never released", remedy="vllm-ci history shows what was; give at least 7 digits")
    present = now_or(now)
    with setup.open() as repository:
        shown = []
        for release in found.values():
            findings, problem = Findings(image=release.digest), ""
            try:
                check_image(repository, release.digest)
                findings = findings_of(setup, repository, release, now=present)
            except (Refusal, NotFoundError) as error:
                problem = error.message
            heads = {name: history.current(state.records, name) for name in history.channels(state.records)}
            shown.append(
                Shown(
                    release=release,
                    records=tuple(each for each in state.records if each.release.digest == release.digest),
                    current=tuple(name for name, head in heads.items() if head and head.release.digest == release.digest),
                    tests=_tests(findings),
                    findings=findings,
                    problem=problem,
                )
            )
    return tuple(shown)


def _tests(findings: Findings) -> dict[str, str]:
    """The newest verdict by stage; a statement that cannot be read says nothing."""
    found: dict[str, str] = {}
    for each in findings.of(TEST_RESULT):
        with contextlib.suppress(MalformedError):
            result = read(each.statement)
            found[result.stage] = result.verdict.value
    return dict(sorted(found.items()))


def evidence_json(findings: Findings) -> list[dict[str, object]]:
    """Statements, verified and refused, as plain data."""
    verified: list[dict[str, object]] = [
        {
            "kind": each.kind,
            "title": each.statement.title,
            "type": each.statement.predicate_type,
            "signer": each.signer,
            "at": each.at.isoformat() if each.at.year > 1970 else "",
            "digest": each.digest,
            "verified": True,
        }
        for each in findings.evidence
    ]
    refused: list[dict[str, object]] = [
        {"digest": digest, "verified": False, "refusal": type(refusal).__name__.removesuffix("Error"), "message": str(refusal)}
        for digest, refusal in findings.refused.items()
    ]
    return verified + refused
