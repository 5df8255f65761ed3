"""What an agent does next for one channel, from what the ledger says and what runs. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vllm_ci.deploy.deployment import Deployment, serving
from vllm_ci.deploy.target import Current
from vllm_ci.release.record import Record, Release

Verb = Literal["nothing", "wait", "resume", "deploy", "go back", "restart"]


@dataclass(frozen=True, kw_only=True)
class Next:
    """What is to be done.

    Attributes:
        verb: ``wait``: nothing, because a person has to do something.
        reason: Why.
    """

    verb: Verb
    reason: str


def decide(channel: str, head: Record | None, current: Current, last: Deployment | None, *, now: float) -> Next:
    """What to do next.

    Args:
        channel: Its name.
        head: What the ledger says the channel points to.
        current: What runs.
        last: The newest deployment, from the journal.
        now: Seconds since 1970.
    """
    if head is None:
        return Next(verb="nothing", reason=f"nothing was ever released to {channel}")
    named = serving(current)[0]
    serves = current.revisions.get(named)
    if last is not None and not last.ended and not last.kept:
        found = _unfinished(last, head, channel)
    elif serves is None or not serves.serves(head.release):
        found = _wrong(last, head, channel, serving_now=serves.commit[:12] if serves else "nothing")
    else:
        return _right(current, named, last, now=now)
    if found.verb == "wait" and (died := _died(current)):  # users do not wait for a person
        return Next(verb="restart", reason=f"{died}, and {found.reason}")
    return found


def _died(current: Current) -> str:
    """What died of that which gets requests, in words; empty when nothing did, or a request starts it."""
    if current.asleep:
        return ""
    if current.down and current.route.revisions:
        return "the gateway does not run"
    for name in sorted(current.route.revisions):
        wanted = max(current.wanted.get(name, 0), 1)
        if current.ready(name) < wanted:
            return f"{current.ready(name)} of {wanted} servers are ready"
    return ""


def _right(current: Current, named: str, last: Deployment | None, *, now: float) -> Next:
    """The release that the ledger says serves."""
    if current.asleep:
        return Next(verb="nothing", reason=f"{current.revisions[named].commit[:12]} is scaled to zero, and wakes on a request")
    if died := _died(current):
        return Next(verb="restart", reason=died)
    if last is not None and last.kept and now >= last.since + last.step.hold_s:
        return Next(verb="resume", reason="the old release need not be kept ready any more")
    return Next(verb="nothing", reason=f"{current.revisions[named].commit[:12]} serves")


def _unfinished(last: Deployment, head: Record, channel: str) -> Next:
    if head.action == "rollback" and _apart(last.release, head.release):
        return Next(verb="go back", reason=f"{channel} was rolled back during the deployment of {last.release.commit[:12]}")
    if last.phase == "held":
        return Next(verb="wait", reason=f"a person decides: {last.reason}")
    return Next(verb="resume", reason=f"the deployment of {last.release.commit[:12]} is not finished")


def _apart(one: Release, other: Release) -> bool:
    return (one.digest, one.model) != (other.digest, other.model)


def _wrong(last: Deployment | None, head: Record, channel: str, *, serving_now: str) -> Next:
    """Another release serves than the one that the ledger says, or none."""
    commit = head.release.commit[:12]
    if last is not None and last.phase == "returned" and not _apart(last.release, head.release):
        return Next(
            verb="wait", reason=f"{commit} went back before ({last.reason}); publish another, or vllm-ci deploy {channel}"
        )
    verb: Verb = "go back" if head.action == "rollback" else "deploy"
    return Next(verb=verb, reason=f"{channel} points to {commit}, and {serving_now} serves")
