"""Roll back: to the newest earlier release whose evidence still verifies, checked as strictly as publishing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from vllm_ci.domain.errors import FailedError, UsageError
from vllm_ci.domain.events import Emit, ignore, step
from vllm_ci.evidence.refusals import Refusal
from vllm_ci.registry.errors import NotFoundError
from vllm_ci.registry.repository import Repository
from vllm_ci.release import history
from vllm_ci.release.gathering import ask, now_or
from vllm_ci.release.ledger import State
from vllm_ci.release.moved import Moved
from vllm_ci.release.moving import Move
from vllm_ci.release.policy import Decision, RuleResult
from vllm_ci.release.record import Record, Release
from vllm_ci.release.rescan import Looked, look
from vllm_ci.release.setup import Channel, Setup


@dataclass(frozen=True, kw_only=True)
class _Tried:
    release: Release
    decision: Decision
    looked: Looked


def rollback(
    setup: Setup,
    channel_name: str,
    *,
    to: str = "",
    osv: Path | None = None,
    reason: str = "",
    dry_run: bool = False,
    now: datetime | None = None,
    emit: Emit = ignore,
) -> Moved:
    """Point a channel to an earlier release.

    Args:
        setup: Registry, ledger, key and policies.
        channel_name: Which channel.
        to: Commit (or its beginning) or digest of the release; by default the newest earlier one whose evidence verifies.
        osv: OSV data to scan its bill of materials with, now.
        reason: Why, for the record.
        dry_run: Say what would be done, and do nothing.
        now: The present.
        emit: Told of each step.

    Raises:
        UsageError: There is no earlier release, or the named one was never released there.
        RegistryError: The registry broke or refused.
        ErroredError: The ledger cannot be reached.
    """
    present = now_or(now)
    channel = setup.channel(channel_name)
    with setup.open() as repository:
        state = setup.ledger.read()
        head = history.current(state.records, channel_name)
        interrupted = _interrupted(repository, state, channel_name)
        tried: list[_Tried] = []
        for release in _candidates(state, channel_name, to, interrupted=interrupted):
            with step(emit, "verify", release.commit[:12]) as done:
                tried.append(_try(setup, repository, channel, state, release=release, osv=osv, now=present))
                done(f"{release.commit[:12]} {'allowed' if tried[-1].decision.allowed else 'refused'}")
            if tried[-1].decision.allowed:
                break
        # The last one when it holds; else the newest is the one that is refused.
        chosen = tried[-1] if tried[-1].decision.allowed else tried[0]
        move = Move(
            setup=setup,
            repository=repository,
            channel=channel,
            action="rollback",
            release=chosen.release,
            now=present,
            emit=emit,
            reason=reason,
        )
        steps = [f"skip {each.release.commit[:12]}: {'; '.join(each.decision.reasons)}" for each in tried if each is not chosen]
        if interrupted and not move.changes(state):
            steps.append(f"complete the interrupted rollback to {chosen.release.commit[:12]}")
        steps += [*chosen.looked.steps, *move.steps(state)]
        if dry_run or not chosen.decision.allowed:
            return move.outcome(state, chosen.decision, steps, dry_run=dry_run)
        return move.complete(state, chosen.looked.bundles, steps, unless=_unless_moved(channel_name, head))


def _interrupted(repository: Repository, state: State, channel: str) -> bool:
    """Whether the last move was a rollback that was interrupted between ledger and tag.

    After a publication or promotion that was interrupted there, a rollback starts from it and does not complete it.
    """
    last = history.last_move(state.records, channel)
    return last is not None and last.action == "rollback" and repository.resolve(channel) != last.release.digest


def _unless_moved(channel: str, head: Record | None) -> Callable[[State], None]:
    def check(newest: State) -> None:
        standing = history.current(newest.records, channel)
        if standing != head:
            raise FailedError(
                f"{channel} was moved by {standing.by if standing else 'another writer'} in the meantime",
                why="rolling back from the new release may give another result than you expect",
                remedy=f"look at vllm-ci history {channel}, then roll back again",
            )

    return check


def _candidates(state: State, channel: str, to: str, *, interrupted: bool) -> tuple[Release, ...]:
    """Releases to go back to, newest first; an interrupted rollback is completed before any goes further."""
    if not to:
        found = history.earlier(state.records, channel)
        head = history.current(state.records, channel)
        if interrupted and head:
            return head.release, *found
        if not found:
            raise UsageError(f"{channel} has no earlier release to go back to", remedy=f"see vllm-ci history {channel}")
        return found
    wanted = to.removeprefix("sha256:")
    fitting = [
        each
        for each in history.everything(state.records, channel)
        if len(wanted) >= 7 and (each.commit.startswith(wanted) or each.digest.removeprefix("sha256:").startswith(wanted))
    ]
    if not fitting:
        raise UsageError(f"{to} was never released to {channel}", remedy=f"choose one that vllm-ci history {channel} shows")
    if len({each.commit for each in fitting}) > 1:
        raise UsageError(f"{to} fits {len(fitting)} releases of {channel}", remedy="give more digits")
    return tuple(fitting[:1])


def _try(
    setup: Setup, repository: Repository, channel: Channel, state: State, *, release: Release, osv: Path | None, now: datetime
) -> _Tried:
    """A release looked at; one whose image is gone or altered is refused like one whose evidence is."""
    try:
        looked = look(setup, repository, release, osv=osv, now=now)
    except (Refusal, NotFoundError, UsageError) as error:
        broken = RuleResult(rule="image", expected="the image and its evidence, unaltered", got=error.message, ok=False)
        return _Tried(
            release=release,
            decision=Decision(rules=(broken,), policy=channel.policy.digest, evidence=()),
            looked=Looked.nothing(),
        )
    return _Tried(release=release, decision=ask(channel, state, release, looked.findings, now=now), looked=looked)
