"""What the commands do with a deployment: begin or resume one, go back, scale, stop."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import anyio

from vllm_ci.deploy.deployment import Deployment, serving
from vllm_ci.deploy.journal import BusyError, Journal, Request, Verb
from vllm_ci.deploy.plan import Change, Plan, servable
from vllm_ci.deploy.rollout import Rollout
from vllm_ci.deploy.rules import Rules
from vllm_ci.deploy.scaling import Scale
from vllm_ci.deploy.strategy import BlueGreen, Strategy, Switch, plan
from vllm_ci.deploy.target import Current, Revision, Route, Target
from vllm_ci.domain.errors import FailedError, UsageError
from vllm_ci.release.record import Release

_PATIENCE_S = 10.0
_AGAIN_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to serve.

    Attributes:
        channel: For which channel.
        release: The release.
        revision: How it is served.
        replicas: How many servers.
        strategy: How it takes the place of the old one.
        keep_s: How long the old one is kept ready.
        scale: Bounds of the number of servers, where the load decides: then it stays what it is now.
        known: Releases of the channel, to name the one that serves now.
    """

    channel: str
    release: Release
    revision: Revision
    replicas: int
    strategy: Strategy
    keep_s: float = 0.0
    scale: Scale | None = None
    known: tuple[Release, ...] = ()

    def planned(self, current: Current, target: Target) -> Plan | None:
        """The plan; ``None`` when it serves already.

        Raises:
            UsageError: The target cannot do it, or the settings do not fit.

        Where no server of the old one runs, there are none to share requests with: all go to the new one when it has passed its
        checks.
        """
        _check_zero(self.scale, target)
        _check_protocol(current, self.revision)
        old, count = serving(current)
        strategy = self.strategy
        if current.asleep:  # requests wait, so they stay with the old one until the new one gets them
            if old == self.revision.name and self.scale and self.scale.zero and current.route == Route(weights={old: 100}):
                return None
            count, strategy = 0, self.strategy if isinstance(self.strategy, Switch) else BlueGreen()
        elif not current.ready(old):  # it has no servers, so there is nothing to keep
            old, count = "", 0
        name = self.revision.name
        replicas = self.scale.within(count or self.replicas) if self.scale else self.replicas
        settled = current.ready(name) == replicas == current.wanted.get(name)
        if old == name and settled and not current.down and current.route == Route(weights={name: 100}):
            return None
        change = Change(old=old, old_replicas=count, new=name, replicas=replicas)
        return plan(strategy, change, target.capabilities, target=target.name, keep_s=self.keep_s)


async def begun(target: Target, journal: Journal, wanted: Wanted) -> Deployment | None:
    """The unfinished deployment of the same revision, or a new one; ``None`` when it serves already.

    Raises:
        UsageError: The deployment of another revision is not finished; or the target cannot do the plan.
        ErroredError: The target or the journal cannot be read.
    """
    last = journal.read()
    if last is not None and not last.ended:
        if last.revision.name == wanted.revision.name:
            return last
        if not last.kept:
            raise UsageError(
                f"the deployment of {last.release.commit[:12]} to {wanted.channel} is not finished",
                why=f"it is {_where(last)}",
                remedy=_remedy(last),
            )
    current = await _awake(target, wanted)
    made = wanted.planned(current, target)
    if made is None:
        return None
    old = current.revisions.get(made.change.old)
    revisions = {each.name: each for each in (old, wanted.revision) if each is not None}
    return Deployment(
        id=secrets.token_hex(8),
        channel=wanted.channel,
        target=target.name,
        release=wanted.release,
        previous=_release_of(old, wanted.known),
        revision=wanted.revision,
        revisions=revisions,
        plan=made,
    )


async def _awake(target: Target, wanted: Wanted) -> Current:
    """What runs, with a server of the old release where it was scaled to zero and the strategy shares requests with it."""
    current = await target.current()
    old, _ = serving(current)
    shares = not isinstance(wanted.strategy, Switch | BlueGreen)
    if current.asleep and shares and old in current.revisions and old != wanted.revision.name:
        with suppress(FailedError, UsageError):  # it does not start, or does not fit; the new one may
            await target.start(current.revisions[old], 1)
        return await target.current()
    return current


def _check_protocol(current: Current, revision: Revision) -> None:
    """Clients of one protocol cannot be served by servers of the other, so there is no way from one to the other."""
    speaks, wanted = {each.serving.protocol for each in current.revisions.values()}, revision.serving.protocol
    if speaks - {wanted}:
        raise UsageError(
            f"what serves speaks {', '.join(sorted(speaks - {wanted}))}, and this release would speak {wanted}",
            why="its clients could not be served by the other one, so requests cannot be moved there",
            remedy="end it first: vllm-ci deploy stop CHANNEL --yes; or deploy it as another channel, and move the clients",
        )


def _check_zero(scale: Scale | None, target: Target) -> None:
    if scale is not None and scale.zero and not target.capabilities.zero:
        raise UsageError(
            f"target {target.name} cannot be scaled to zero",
            why="nothing there holds requests until a server has started",
            remedy="set `deploy.scale.min` to 1 or more; in a cluster, KEDA's HTTP add-on scales to zero",
        )


def _release_of(revision: Revision | None, known: Iterable[Release]) -> Release | None:
    return next((each for each in known if revision and revision.serves(each)), None)


def _where(deployment: Deployment) -> str:
    if deployment.phase == "held":
        return f"held at step `{deployment.step.name}`: {deployment.reason}"
    doing = "going back" if deployment.phase == "back" else "in"
    return f"{doing} step `{deployment.step.name}`"


def _remedy(deployment: Deployment) -> str:
    if deployment.phase == "held":
        return f"vllm-ci deploy promote {deployment.channel} or vllm-ci deploy abort {deployment.channel}"
    return f"go back with vllm-ci deploy abort {deployment.channel}, or wait if another command runs it"


async def decide(target: Target, journal: Journal, channel: str, verb: Verb, rules: Rules) -> Deployment:
    """Promote a deployment that is held, or abort an unfinished one; by the command that runs it, or here if none does.

    Raises:
        UsageError: There is nothing to decide.
        ErroredError: As in :meth:`Rollout.run`.
    """
    found = _decidable(journal.read(), channel, verb)
    journal.ask(Request(id=found.id, at=found.at, verb=verb))
    while True:
        try:
            with journal.changing(channel):
                mine = journal.read() or found
                return mine if mine.ended else await Rollout(target, journal, mine, rules).run()
        except BusyError:
            await anyio.sleep(_AGAIN_S)
        now = journal.read() or found
        if now.id != found.id or now.phase not in ("forward", "held", "back"):
            return now
        if verb == "promote" and (now.phase, now.at) != (found.phase, found.at):
            return now


def _decidable(found: Deployment | None, channel: str, verb: Verb) -> Deployment:
    if found is None or found.ended:
        raise UsageError(f"no deployment of {channel} is going on", remedy=f"vllm-ci deploy status {channel} shows what serves")
    if verb == "abort" and found.kept:
        raise UsageError(f"the new release of {channel} is live already", remedy=f"vllm-ci rollback {channel}")
    if verb == "promote" and found.phase != "held":
        raise UsageError(f"the deployment of {channel} does not wait for a person: it is {_where(found)}")
    return found


async def go_back(target: Target, journal: Journal, wanted: Wanted, rules: Rules) -> Deployment | None:
    """Make a release serve that served before: abort what is going on, then switch, at once if it is still ready.

    Returns:
        The last deployment that did it; ``None`` when it serves already.

    Raises:
        ErroredError: As in :meth:`Rollout.run`.
    """
    last = journal.read()
    if last is not None and not last.ended and not last.kept:
        aborted = await decide(target, journal, wanted.channel, "abort", rules)
        if serving(await target.current())[0] == wanted.revision.name:
            return aborted
    # The process that ends old releases looks again and again whether it may, and holds the lock for that.
    with journal.changing(wanted.channel, patience_s=_PATIENCE_S):
        made = await begun(target, journal, wanted)
        return made and await Rollout(target, journal, made, rules).run()


def ready_revision(current: Current, release: Release) -> tuple[Revision, int] | None:
    """The revision of a release that still has ready replicas, and how many; what serves counts first."""
    named, _ = serving(current)
    fitting = [each for each in current.revisions.values() if each.serves(release) and current.ready(each.name)]
    fitting.sort(key=lambda each: (each.name != named, -current.ready(each.name), each.name))
    return (fitting[0], current.wanted.get(fitting[0].name, current.ready(fitting[0].name))) if fitting else None


async def scale(target: Target, journal: Journal, channel: str, replicas: int) -> Current:
    """Run another number of servers of what serves.

    Raises:
        UsageError: Nothing serves, a deployment is going on, or it does not fit.
        FailedError: A server was not ready; those that are serve.
    """
    with journal.changing(channel):
        last = journal.read()
        if last is not None and not last.ended and not last.kept:
            raise UsageError(
                f"a deployment of {channel} is going on: it is {_where(last)}",
                remedy=_remedy(last),
            )
        current = await target.current()
        name, _ = serving(current)
        if not name or name not in current.revisions:
            raise UsageError(f"nothing serves for {channel}", remedy=f"vllm-ci deploy {channel}")
        await target.start(current.revisions[name], replicas)
        return await target.current()


async def restart(target: Target, journal: Journal, channel: str) -> None:
    """Start what died of that which gets requests, and the gateway; what does not start gets none as long as others answer.

    Raises:
        UsageError: It does not fit.
        FailedError: A server was not ready; those that are serve.
    """
    with journal.changing(channel):
        current = await target.current()
        main, _ = serving(current)
        failures: list[FailedError | UsageError] = []
        for name in sorted(current.route.revisions, key=lambda each: (each != main, each)):
            known = current.revisions.get(name)
            if known is None:
                failures.append(
                    UsageError(f"{name} gets requests and is not there any more", remedy=f"vllm-ci deploy {channel}")
                )
                continue
            try:
                await target.start(known, max(current.wanted.get(name, 0), 1))
            except (FailedError, UsageError) as error:
                failures.append(error)
        now = await target.current()
        route = servable(current.route, now)
        if all(now.ready(name) for name in route.revisions):
            await target.route(route)
        if failures:
            raise failures[0]


async def stop(target: Target, journal: Journal, channel: str) -> None:
    """End everything: no requests any more, open ones to their end or the deadline, then gateway and servers.

    Raises:
        BusyError: A deployment is going on in another command.
    """
    with journal.changing(channel):
        current = await target.current()
        if current.route.revisions:
            await target.route(Route())
        for name in sorted({each.revision for each in current.replicas}):
            known = current.revisions.get(name)
            await target.drain(name, deadline_s=known.serving.drain_s if known else 0.0)
            await target.stop(name)
        await target.close()
        journal.forget()
