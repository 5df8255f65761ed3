"""Promote: the same digest to the next channel, by that channel's policy. Nothing is built again."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from vllm_ci.domain.errors import UsageError
from vllm_ci.release import history
from vllm_ci.release.ledger import State
from vllm_ci.release.moving import (
    Moved,
    OnStep,
    Proposal,
    ask,
    attach_all,
    attach_decision,
    now_or,
    record_move,
    set_channel_tag,
)
from vllm_ci.release.rescan import Looked, look
from vllm_ci.release.setup import Setup


def promote(
    setup: Setup,
    source: str,
    target: str,
    *,
    osv: Path | None = None,
    reason: str = "",
    dry_run: bool = False,
    now: datetime | None = None,
    on_step: OnStep = lambda _: None,
) -> Moved:
    """Move channel ``target`` to what channel ``source`` stands at.

    Args:
        setup: Where, who signs, what is asked.
        source: Channel to take the release from.
        target: Channel to take it to.
        osv: OSV data to scan its bill of materials with, now.
        reason: Why, for the record.
        dry_run: Say what would be done, and do nothing.
        now: The present.
        on_step: Told before each step.

    Raises:
        UsageError: Nothing was ever released to ``source``.
        RegistryError: The registry broke or refused.
        ErroredError: The ledger cannot be reached.
    """
    present = now_or(now)
    channel = setup.channel(target)
    setup.channel(source)
    with setup.open() as repository:
        state = setup.ledger.read()
        head = history.current(state.records, source)
        if head is None:
            raise UsageError(f"nothing was ever released to {source}", remedy=f"vllm-ci publish --channel {source}")
        release = head.release
        on_step("verify the evidence")
        looked: Looked = look(setup, repository, release, osv=osv, now=present)
        decision = ask(channel, state, release, looked.findings, now=present)
        standing = history.current(state.records, target)
        previous = standing.release if standing else None
        moves = previous is None or previous.digest != release.digest
        steps = [*looked.steps, *([f"record that {target} stands at {release.commit[:12]}"] if moves else [])]
        steps += [f"point tag {target} at it"] if repository.resolve(target) != release.digest else []
        moved = Moved(
            action="promote",
            channel=target,
            release=release,
            previous=previous,
            decision=decision,
            changed=decision.allowed and moves,
            done=tuple(steps) if decision.allowed else (),
            dry_run=dry_run,
        )
        if dry_run or not decision.allowed:
            return moved
        attach_all(repository, release.digest, looked.bundles, on_step)
        findings = look(setup, repository, release, now=present).findings
        attach_decision(
            setup,
            repository,
            channel,
            release=release,
            decision=decision,
            findings=findings,
            now=present,
            on_step=on_step,
        )

        def propose(newest: State) -> Proposal:
            return Proposal(release=release, decision=ask(channel, newest, release, findings, now=present))

        on_step("write the ledger")
        before, written = record_move(setup, channel, "promote", propose, now=present, reason=reason, source=source)
        set_channel_tag(setup, repository, target, on_step, written=written)
        on_step("done")
    standing = history.current(before.records, target)
    return Moved(
        action="promote",
        channel=target,
        release=release,
        previous=standing.release if standing else None,
        decision=ask(channel, before, release, findings, now=present),
        changed=written is not None,
        done=tuple(steps),
    )
