"""Changing what a channel points to: the common part of publish, promote and rollback.

Order, so that a crash at any point leaves the old state or the new, and running again completes it: blobs, image, evidence,
ledger, channel tag. The ledger decides: an outdated tag is corrected by the next command.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import ErroredError
from vllm_ci.domain.events import Emit, step
from vllm_ci.domain.image import ImageRef
from vllm_ci.evidence.bundle import Signed
from vllm_ci.evidence.predicates import decision as decisions
from vllm_ci.evidence.statement import DECISION, timestamp
from vllm_ci.evidence.verify import Findings
from vllm_ci.registry.repository import Repository
from vllm_ci.registry.retry import Failures
from vllm_ci.release import history
from vllm_ci.release.gathering import ask, attach_all, findings_of, sign
from vllm_ci.release.ledger import LedgerEntry, State
from vllm_ci.release.moved import Moved
from vllm_ci.release.policy import Decision
from vllm_ci.release.record import Action, Record, Release, Rule
from vllm_ci.release.setup import Channel, Setup


@dataclass(frozen=True, kw_only=True)
class Move:
    """A change of a channel to a release.

    Attributes:
        setup: Who signs, what is trusted, where the ledger is.
        repository: Where the image is.
        channel: Which channel.
        action: How.
        release: To what.
        now: The present.
        emit: Told of each step.
        reason: Why, for the record.
        source: For a promotion, the channel it comes from.
        pull_request: Number of the pull request that the run which moves it is for, empty when none.
    """

    setup: Setup
    repository: Repository
    channel: Channel
    action: Action
    release: Release
    now: datetime
    emit: Emit
    reason: str = ""
    source: str = ""
    pull_request: str = ""

    def previous(self, state: State) -> Release | None:
        """The release that the channel points to now."""
        head = history.current(state.records, self.channel.name)
        return head.release if head else None

    def changes(self, state: State) -> bool:
        """Whether the channel points to another release now."""
        before = self.previous(state)
        return before is None or before.digest != self.release.digest

    def steps(self, state: State) -> list[str]:
        """What remains to be done once the evidence is attached, in words."""
        steps = [f"record that {self.channel.name} points to {self.release.commit[:12]}"] if self.changes(state) else []
        tagged = self.repository.resolve(self.channel.name) == self.release.digest
        return steps if tagged else [*steps, f"set tag {self.channel.name}"]

    def ask(self, state: State, findings: Findings) -> Decision:
        """Evaluate the channel's policy for it."""
        return ask(self.channel, state, self.release, findings, now=self.now, pull_request=self.pull_request)

    def outcome(
        self, state: State, decision: Decision, steps: Sequence[str], *, changed: bool | None = None, dry_run: bool = False
    ) -> Moved:
        """The result, or what it would be."""
        return Moved(
            action=self.action,
            channel=self.channel.name,
            release=self.release,
            previous=self.previous(state),
            decision=decision,
            changed=decision.allowed and self.changes(state) if changed is None else changed,
            done=tuple(steps) if decision.allowed else (),
            dry_run=dry_run,
        )

    def complete(
        self, state: State, bundles: Sequence[Signed], steps: Sequence[str], *, unless: Callable[[State], None] = lambda _: None
    ) -> Moved:
        """Attach, decide by what can be read back, record, tag.

        Args:
            state: Of the ledger, as it was looked at.
            bundles: Evidence to attach first.
            steps: What is done, in words.
            unless: Raises when the ledger has moved in a way that spoils the move.
        """
        attach_all(self.repository, self.release.digest, bundles, self.emit)
        # The decision is based on what anyone can read from the repository.
        findings = findings_of(self.setup, self.repository, self.release, now=self.now)
        decision = self.ask(state, findings)
        if not decision.allowed:
            return self.outcome(state, decision, steps)
        self._attach_decision(decision, findings)
        with step(self.emit, "ledger", self.channel.name) as done:
            before, written = self.setup.ledger.append(lambda newest: self._entry(newest, findings, unless))
            done(f"record {written.number}" if written else "nothing to record")
        set_channel_tag(self.setup, self.repository, self.channel.name, self.emit, written=written)
        return self.outcome(before, self.ask(before, findings), steps, changed=written is not None)

    def _attach_decision(self, decision: Decision, findings: Findings) -> None:
        """Attach the decision itself, unless the same policy's decision is attached already."""
        for each in findings.of(DECISION):
            policy = each.statement.predicate.get("verifier", {}).get("policy", {})
            if (policy.get("name"), policy.get("digest")) == (self.channel.name, {"sha256": decision.policy}):
                return
        statement = decisions.statement(
            ImageRef(repository=self.setup.subject, digest=self.release.digest),
            Commit(sha=self.release.commit),
            channel=self.channel.name,
            policy=decision.policy,
            rules=[each.rule for each in decision.rules],
            evidence=decision.evidence,
            at=self.now,
        )
        attach_all(self.repository, self.release.digest, sign(self.setup, [statement]), self.emit)

    def _entry(self, newest: State, findings: Findings, unless: Callable[[State], None]) -> LedgerEntry | None:
        """The new ledger entry; evaluated again whenever another writer was faster."""
        unless(newest)
        decision = self.ask(newest, findings)
        if not decision.allowed or not self.changes(newest):
            return None
        made = Record(
            number=len(newest.records) + 1,
            at=timestamp(self.now),
            action=self.action,
            channel=self.channel.name,
            release=self.release,
            previous=self.previous(newest),
            source=self.source,
            policy=decision.policy,
            rules=tuple(Rule(rule=each.rule, expected=each.expected, got=each.got) for each in decision.rules),
            evidence=decision.evidence,
            reason=self.reason,
        )
        return LedgerEntry(record=made, overlay=self.setup.overlay(self.channel, self.release))


def set_channel_tag(setup: Setup, repository: Repository, channel: str, emit: Emit, *, written: Record | None = None) -> None:
    """Point the channel's tag at what the ledger says, also when that changes meanwhile.

    Args:
        setup: Where the ledger is, and how often to retry.
        repository: Where the tag is.
        channel: Its name.
        emit: Told of each step.
        written: The ledger's newest record of the channel, where it was written just now.

    Raises:
        LaggingTagError: The registry still answers with another digest than the one that was pushed.
    """
    head = written or history.current(setup.ledger.read().records, channel)
    failures, put = Failures(setup.access.retry), ""
    while head is not None:
        if repository.resolve(channel) == head.release.digest:
            newest = history.current(setup.ledger.read().records, channel)
            if newest == head:
                return
            head = newest  # moved by others meanwhile: the tag follows
            continue
        if put == head.release.digest:
            if not failures.again():
                raise _lagging(repository, head)
            if repository.resolve(channel) == put:
                continue
        with step(emit, "tag", channel):
            put = head.release.digest
            repository.put_manifest(repository.manifest(put), tag=channel)


class LaggingTagError(ErroredError):
    """A registry accepted a channel's tag and still answers with the old digest."""


def _lagging(repository: Repository, head: Record) -> LaggingTagError:
    return LaggingTagError(
        f"{head.channel} points to {head.release.commit[:12]} in the ledger, but its registry tag is outdated",
        why=f"{repository.name} accepted tag {head.channel} but still answers with another digest: "
        "the registry or a cache in front of it is slow, or another tool sets the same tag",
        remedy="the ledger is correct; set the tag later: vllm-ci doctor --ledger --repair",
    )
