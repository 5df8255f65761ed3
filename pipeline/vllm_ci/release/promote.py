"""Promote: the same digest to the next channel, by that channel's policy. Nothing is built again."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.events import Emit, ignore, step
from vllm_ci.release import history
from vllm_ci.release.gathering import now_or
from vllm_ci.release.moved import Moved
from vllm_ci.release.moving import Move
from vllm_ci.release.rescan import look
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
    emit: Emit = ignore,
) -> Moved:
    """Point channel ``target`` to the release of channel ``source``.

    Args:
        setup: Registry, ledger, key and policies.
        source: Channel to take the release from.
        target: Channel to take it to.
        osv: OSV data to scan its bill of materials with, now.
        reason: Why, for the record.
        dry_run: Say what would be done, and do nothing.
        now: The present.
        emit: Told of each step.

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
        move = Move(
            setup=setup,
            repository=repository,
            channel=channel,
            action="promote",
            release=head.release,
            now=present,
            emit=emit,
            reason=reason,
            source=source,
        )
        with step(emit, "verify", head.release.commit[:12]):
            looked = look(setup, repository, head.release, osv=osv, now=present)
        decision = move.ask(state, looked.findings)
        steps = [*looked.steps, *move.steps(state)]
        if dry_run or not decision.allowed:
            return move.outcome(state, decision, steps, dry_run=dry_run)
        return move.complete(state, looked.bundles, steps)
