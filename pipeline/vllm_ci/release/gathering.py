"""Evidence about a release: what is attached, what is to be attached, and the result of a channel's policy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from vllm_ci.domain.events import Emit, step
from vllm_ci.evidence.attachment import Attached, attach, attached
from vllm_ci.evidence.bundle import Signed
from vllm_ci.evidence.predicates import provenance
from vllm_ci.evidence.statement import PROVENANCE, SCAN, Statement
from vllm_ci.evidence.verify import Findings, judge
from vllm_ci.registry.manifest import digest_of
from vllm_ci.registry.repository import Repository
from vllm_ci.release import history
from vllm_ci.release.ledger import State
from vllm_ci.release.policy import Decision, Facts, decide
from vllm_ci.release.record import Release
from vllm_ci.release.setup import Channel, Setup


def now_or(moment: datetime | None) -> datetime:
    """``moment``, or the present."""
    return moment or datetime.now(UTC)


def findings_of(
    setup: Setup, repository: Repository, release: Release, *, more: Iterable[Signed] = (), now: datetime
) -> Findings:
    """All evidence for an image, verified: what is attached, and what is about to be."""
    coming = [Attached(digest=digest_of(each.content), bundle=each.content) for each in more]
    return judge(
        [*attached(repository, release.digest), *coming],
        setup.expected(release.digest, release.commit),
        setup.signers,
        now=now,
    )


def commit_of(findings: Findings) -> str:
    """The commit that the newest provenance names, all zeros when there is none."""
    found = findings.of(PROVENANCE)
    return provenance.commit_of(found[-1].statement).sha if found else "0" * 40


def ask(
    channel: Channel, state: State, release: Release, findings: Findings, *, now: datetime, pull_request: str = ""
) -> Decision:
    """Evaluate a channel's policy for a release; ``pull_request`` is the number of the current run's pull request."""
    stays = history.stays(state.records, release.digest, now)
    facts = Facts(
        commit=release.commit,
        findings=findings,
        stays=stays,
        now=now,
        pull_request=pull_request,
        current={
            name: found.release.digest
            for name in history.channels(state.records)
            if (found := history.current(state.records, name))
        },
    )
    return decide(channel.policy, facts)


def unknown(statements: Iterable[Statement], findings: Findings) -> list[Statement]:
    """The statements that are not attached yet; a scan with the same data and result counts as attached."""
    payloads = {each.statement.payload for each in findings.evidence}
    scans = [each.statement.predicate.get("scanner") for each in findings.of(SCAN)]
    return [
        each
        for each in statements
        if each.payload not in payloads and not (each.predicate_type == SCAN and each.predicate["scanner"] in scans)
    ]


def sign(setup: Setup, statements: Sequence[Statement]) -> list[Signed]:
    """Sign statements; without any, the key is not needed."""
    if not statements:
        return []
    key = setup.key()
    return [key.sign_statement(each) for each in statements]


def attach_all(repository: Repository, digest: str, bundles: Sequence[Signed], emit: Emit) -> None:
    """Attach bundles to an image."""
    if bundles:
        with step(emit, "attach", ", ".join(Statement.parse(each.payload).title for each in bundles)):
            attach(repository, digest, *bundles)
