"""Moving a channel: what publish, promote and rollback have in common.

Order, so that a crash at any point leaves the old state or the new, and running again completes it: blobs, image, evidence,
ledger, channel tag. The ledger decides: a tag that lags behind is set right by whoever comes next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import FailedError
from vllm_ci.domain.image import ImageRef
from vllm_ci.evidence import decision as decisions
from vllm_ci.evidence import provenance
from vllm_ci.evidence.attachment import Attached, attach, attached
from vllm_ci.evidence.bundle import Signed
from vllm_ci.evidence.statement import DECISION, PROVENANCE, SCAN, Statement, timestamp
from vllm_ci.evidence.verify import Findings, judge
from vllm_ci.registry.manifest import digest_of
from vllm_ci.registry.repository import Repository
from vllm_ci.release import history
from vllm_ci.release.ledger import Entry, State
from vllm_ci.release.policy import Decision, Facts, decide
from vllm_ci.release.record import Action, Record, Release, Rule
from vllm_ci.release.setup import Channel, Setup

OnStep = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What became of a move.

    Attributes:
        action: What was asked for.
        channel: Which channel.
        release: Where it stands (or would, or was not allowed to).
        previous: Where it stood before.
        decision: Of its policy.
        changed: The channel moved (or would, in a dry run).
        done: What was done, or would be, in order.
        dry_run: Nothing was done.
    """

    action: Action
    channel: str
    release: Release
    previous: Release | None
    decision: Decision
    changed: bool
    done: tuple[str, ...] = ()
    dry_run: bool = False

    def require(self) -> Moved:
        """Itself, when the policy allowed it.

        Raises:
            FailedError: It did not.
        """
        if not self.decision.allowed:
            raise FailedError(
                f"{self.release.commit[:12]} may not go to {self.channel}",
                why="; ".join(self.decision.reasons),
                remedy="vllm-ci policy explain shows every rule",
            )
        return self

    def to_json(self) -> dict[str, object]:
        """What ``--json`` prints."""
        return {
            "action": self.action,
            "channel": self.channel,
            "release": {
                "commit": self.release.commit,
                "digest": self.release.digest,
                "reference": f"{self.release.repository}@{self.release.digest}",
                "tag": self.release.tag,
                "previous": self.previous.digest if self.previous else None,
            },
            "decision": {"allowed": self.decision.allowed, "reasons": list(self.decision.reasons)},
            "changed": self.changed,
            "dry_run": self.dry_run,
            "steps": list(self.done),
        }


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A move that is to be recorded."""

    release: Release
    decision: Decision


def now_or(moment: datetime | None) -> datetime:
    """``moment``, or the present."""
    return moment or datetime.now(UTC)


def findings_of(
    setup: Setup, repository: Repository, digest: str, commit: str, *, more: Iterable[Signed] = (), now: datetime
) -> Findings:
    """Everything that is attached to an image, and what is about to be, verified."""
    coming = [Attached(digest=digest_of(each.content), bundle=each.content) for each in more]
    return judge([*attached(repository, digest), *coming], setup.expected(digest, commit), setup.signers, now=now)


def commit_of(findings: Findings) -> str:
    """The commit that the newest provenance names, all zeros when there is none."""
    found = findings.of(PROVENANCE)
    return provenance.commit_of(found[-1].statement).sha if found else "0" * 40


def ask(channel: Channel, state: State, release: Release, findings: Findings, *, now: datetime) -> Decision:
    """A channel's policy about a release."""
    stays = history.stays(state.records, release.digest, now)
    return decide(channel.policy, Facts(commit=release.commit, findings=findings, stays=stays, now=now))


def unknown(statements: Iterable[Statement], findings: Findings) -> list[Statement]:
    """Those that are not attached already; a scan with the same data and result is the same scan."""
    payloads = {each.statement.payload for each in findings.evidence}
    scans = [each.statement.predicate.get("scanner") for each in findings.of(SCAN)]
    return [
        each
        for each in statements
        if each.payload not in payloads and not (each.predicate_type == SCAN and each.predicate["scanner"] in scans)
    ]


def sign(setup: Setup, statements: Sequence[Statement]) -> list[Signed]:
    """Statements, signed; no key is needed for none."""
    if not statements:
        return []
    key = setup.key()
    return [key.sign_statement(each) for each in statements]


def attach_all(repository: Repository, digest: str, bundles: Sequence[Signed], on_step: OnStep) -> None:
    """Attach bundles to an image."""
    if bundles:
        on_step("attach " + ", ".join(Statement.parse(each.payload).title for each in bundles))
        attach(repository, digest, *bundles)


def attach_decision(
    setup: Setup,
    repository: Repository,
    channel: Channel,
    *,
    release: Release,
    decision: Decision,
    findings: Findings,
    now: datetime,
    on_step: OnStep,
) -> None:
    """Attach the decision itself, unless the same policy has said so before."""
    for each in findings.of(DECISION):
        policy = each.statement.predicate.get("verifier", {}).get("policy", {})
        if (policy.get("name"), policy.get("digest")) == (channel.name, {"sha256": decision.policy}):
            return
    statement = decisions.statement(
        ImageRef(repository=setup.subject, digest=release.digest),
        Commit(sha=release.commit),
        channel=channel.name,
        policy=decision.policy,
        rules=[each.rule for each in decision.rules],
        evidence=decision.evidence,
        at=now,
    )
    attach_all(repository, release.digest, sign(setup, [statement]), on_step)


def record_move(
    setup: Setup,
    channel: Channel,
    action: Action,
    propose: Callable[[State], Proposal | None],
    *,
    now: datetime,
    reason: str = "",
    source: str = "",
) -> tuple[State, Record | None]:
    """Write a move into the ledger; ``propose`` is asked anew whenever somebody else was faster.

    Returns:
        The state before it, and the record; no record when the channel stands there already or nothing was proposed.
    """

    def entry(state: State) -> Entry | None:
        proposal = propose(state)
        head = history.current(state.records, channel.name)
        if proposal is None or not proposal.decision.allowed or (head and head.release.digest == proposal.release.digest):
            return None
        made = Record(
            number=len(state.records) + 1,
            at=timestamp(now),
            action=action,
            channel=channel.name,
            release=proposal.release,
            previous=head.release if head else None,
            source=source,
            policy=proposal.decision.policy,
            rules=tuple(Rule(rule=each.rule, expected=each.expected, got=each.got) for each in proposal.decision.rules),
            evidence=proposal.decision.evidence,
            reason=reason,
        )
        return Entry(record=made, overlay=setup.overlay(channel, proposal.release))

    return setup.ledger.append(entry)


def set_channel_tag(
    setup: Setup, repository: Repository, channel: str, on_step: OnStep, *, written: Record | None = None
) -> None:
    """Point the channel's tag at what the ledger says, also when that moves meanwhile; ``written`` was its newest record."""
    head = written
    while True:
        head, known = head or history.current(setup.ledger.read().records, channel), head is not None
        right = head is None or repository.resolve(channel) == head.release.digest
        if right and not known:
            return
        if head and not right:
            on_step(f"tag {channel}")
            repository.put_manifest(repository.manifest(head.release.digest), tag=channel)
        head = None
