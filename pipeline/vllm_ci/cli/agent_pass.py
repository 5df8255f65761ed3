"""One pass of the agent over one channel."""

from __future__ import annotations

import click

from vllm_ci.cli import deploying, options, waking, watching
from vllm_ci.cli.deploying import Channel
from vllm_ci.config import releases
from vllm_ci.deploy import scaling, verbs
from vllm_ci.deploy.agent import Next, decide
from vllm_ci.deploy.deployment import Deployment, serving
from vllm_ci.deploy.journal import BusyError
from vllm_ci.deploy.rollout import Rollout
from vllm_ci.deploy.scaling import Scale
from vllm_ci.deploy.target import Sample, Target
from vllm_ci.release import history
from vllm_ci.release.deployed import deployable
from vllm_ci.release.record import Record

_LOOK_S = 1.0


def once(context: click.Context, channel: str) -> str:
    """Do what is to be done for a channel; what was done, in words.

    Raises:
        VllmCiError: It could not be done; what serves goes on.
    """
    found = releases.of(options.loaded(context))
    head = history.current(found.setup.ledger.read().records, channel)
    with watching.watch() as emit:
        where = deploying.channel(found, channel, emit=emit)

        async def main() -> str:
            async with where.target() as target:
                return await _pass(where, target, head)

        try:
            return deploying.run(channel, main)
        except BusyError as error:
            return error.message
        finally:
            waking.ensure(where)


async def _pass(where: Channel, target: Target, head: Record | None) -> str:
    rules = where.rules(target)
    following = decide(where.name, head, await target.current(), where.journal.read(), now=rules.clock())
    if following.verb == "nothing" and head is not None and where.scale is not None:
        return await _scaled(where, target, where.scale, following.reason)
    if head is None or following.verb in ("nothing", "wait"):
        return following.reason
    if following.verb == "restart":
        await verbs.restart(target, where.journal, where.name)
        return f"{following.reason}: started again"
    if following.verb == "resume":
        return _told(await _resumed(where, target), following)
    if following.verb == "go back":
        return _told(await deploying.gone_back(where, target, head.release), following)
    ready = deployable(where.found.setup, where.name, emit=where.emit).require(where.name)
    return _told(await deploying.served(where, target, ready), following)


async def _resumed(where: Channel, target: Target) -> Deployment | None:
    with where.journal.changing(where.name):
        last = where.journal.read()
        return last and await Rollout(target, where.journal, last, where.rules(target)).run()


async def _scaled(where: Channel, target: Target, scale: Scale, told: str) -> str:
    """Run as many servers as the load needs."""
    current = await target.current()
    name, wanted = serving(current)
    seen = (await target.observe(seconds=_LOOK_S)).samples.get(name, Sample())
    found = scaling.decide(
        scale,
        scaling.open_requests(seen.values),
        ready=current.ready(name),
        wanted=wanted,
        needs=where.journal.needs(),
        now=where.rules(target).clock(),
    )
    where.journal.write_needs(found.needs)
    if found.servers == wanted:
        return f"{told}, with {wanted} servers"
    await verbs.scale(target, where.journal, where.name, found.servers)
    return f"{told}, with {found.servers} servers instead of {wanted}: {found.reason}"


def _told(done: Deployment | None, following: Next) -> str:
    if done is None:
        return following.reason
    result = {"returned": f"went back: {done.reason}", "held": f"a person decides: {done.reason}"}.get(done.phase, "serves")
    return f"{following.reason}: {done.release.commit[:12]} {result}"
