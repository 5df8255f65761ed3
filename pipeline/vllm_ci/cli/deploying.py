"""What the deployment commands share: the channel's target, journal and rules."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vllm_ci.cli import interruptible, keeper
from vllm_ci.cli.deploy_output import plan_lines
from vllm_ci.config import deployments, over_cluster, over_grpc
from vllm_ci.config.deployments import Place
from vllm_ci.config.releases import Releases
from vllm_ci.deploy import verbs
from vllm_ci.deploy.deployment import Deployment
from vllm_ci.deploy.journal import Journal
from vllm_ci.deploy.rollout import Rollout
from vllm_ci.deploy.rules import Rules
from vllm_ci.deploy.scaling import Scale
from vllm_ci.deploy.strategy import Switch
from vllm_ci.deploy.target import Current, Target
from vllm_ci.deploy.verbs import Wanted
from vllm_ci.domain.errors import Interrupted, UsageError
from vllm_ci.domain.events import Emit, ignore
from vllm_ci.release import deployed, history
from vllm_ci.targets import open_target
from vllm_ci.targets.checks import Runner
from vllm_ci.targets.opening import Opening
from vllm_ci.targets.revision import revision

if TYPE_CHECKING:
    from vllm_ci.release.deployed import Deployable
    from vllm_ci.release.record import Release

_REASON_LENGTH = 300
_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Channel:
    """A channel and its deployment.

    Attributes:
        name: Its name.
        found: Configuration and release settings.
        place: Its folder and settings; those of the target that serves it, where it was deployed before.
        emit: Told of each step.
        waits: Wait for a person where the plan needs one.
    """

    name: str
    found: Releases
    place: Place
    emit: Emit = ignore
    waits: bool = False

    @property
    def journal(self) -> Journal:
        """Its journal."""
        return Journal(self.place.folder)

    @asynccontextmanager
    async def target(self) -> AsyncIterator[Target]:
        """Its target, for as long as the context lasts; what serves goes on afterwards."""
        opening = Opening(
            deployment=self.place.deployment,
            state=self.place.folder,
            settings=self.place.settings,
            setup=self.found.setup,
        )
        async with open_target(self.place.settings.target, opening) as target:
            yield target

    @property
    def scale(self) -> Scale | None:
        """How the load decides about the number of its servers, if it does."""
        return self.place.settings.scale.domain() if self.place.settings.scale else None

    def rules(self, target: Target) -> Rules:
        """What decides about its steps."""
        loaded, settings = self.found.loaded, self.place.settings
        runner = Runner(config=settings.checks, folder=loaded.folder, model=loaded.config.model.served_name)
        double = target.capabilities.double
        return Rules(
            analysis=settings.analysis.domain(),
            check=runner.check,
            record=(lambda _: None) if double else self._record,
            waits=self.waits,
            emit=self.emit,
        )

    def _record(self, deployment: Deployment) -> None:
        returned = deployment.phase == "returned"
        release = deployment.previous if returned else deployment.release
        if release is None:
            return
        strategy = deployment.plan.strategy
        failed = f"{strategy} of {deployment.release.commit[:12]} went back: {deployment.reason}"
        reason = failed if returned else f"{strategy}; {deployment.exposure}" if deployment.requests else strategy
        words = " ".join(reason.split())[:_REASON_LENGTH]
        deployed.record_deployed(self.found.setup, self.name, release, deployment=deployment.id, reason=words)

    def wanted(self, release: Release, current: Current) -> Wanted | None:
        """What is wanted, where the release is still ready; ``None`` where its servers have to be described anew."""
        found = verbs.ready_revision(current, release)
        if found is None:
            return None
        return Wanted(
            channel=self.name,
            release=release,
            revision=found[0],
            replicas=found[1],
            strategy=Switch(),
            known=self._known(),
        )

    async def described(self, ready: Deployable, strategy: str = "", *, prepare: bool = True) -> Wanted:
        """What is wanted, with servers and strategy as the configuration describes them."""
        settings = self.place.settings
        wanted = await self._anew(ready.release, ready.config, prepare=prepare)
        return replace(wanted, strategy=settings.plan(strategy), keep_s=settings.keep_s, scale=self.scale)

    async def again(self, release: Release) -> Wanted:
        """An earlier release whose servers are not there any more, at once."""
        return await self._anew(release, deployed.config_of(self.found.setup, release), prepare=True)

    async def _anew(self, release: Release, config: Mapping[str, Any], *, prepare: bool) -> Wanted:
        made = await revision(
            self.found.loaded,
            self.place.settings,
            self.found.setup,
            release,
            config,
            kept=self.place.folder / "revisions",
            prepare=prepare,
            emit=self.emit,
        )
        return Wanted(
            channel=self.name,
            release=release,
            revision=made,
            replicas=self.place.settings.replicas,
            strategy=Switch(),
            scale=self.scale,
            known=self._known(),
        )

    def _known(self) -> tuple[Release, ...]:
        return history.everything(self.found.setup.ledger.read().records, self.name)


def channel(found: Releases, name: str, *, emit: Emit = ignore, target: str | None = None, waits: bool = False) -> Channel:
    """A channel and its deployment.

    Args:
        found: Configuration and release settings.
        name: Of the channel.
        emit: Told of each step.
        target: Name of the target; by default the one that serves it, or that of the configuration.
        waits: Wait for a person where the plan needs one.

    Raises:
        ConfigError: There is no such channel.
        UsageError: It is deployed to another target, or the target does not serve its protocol; or another project is deployed
            under the same name.
        ErroredError: The journal cannot be read.
    """
    place = deployments.of(found, name)
    last = Journal(place.folder).read() if place.known else None
    if last and last.channel != name:  # chat with eu-staging, and chat-eu with staging
        raise UsageError(
            f"{place.folder} holds the deployment of channel {last.channel} of another project",
            why=f"its name and that channel give {place.deployment}, as {found.loaded.name} and {name} do",
            remedy="set another `name` in vllm-ci.yaml: nothing of the other project is touched",
        )
    if target and last and last.target != target:
        raise UsageError(
            f"{name} is deployed to {last.target}, not to {target}",
            remedy=f"end it there first: vllm-ci deploy stop {name} --yes",
        )
    chosen = target or (last.target if last else place.settings.target)
    settings = place.settings.model_copy(update={"target": chosen})
    over_grpc.require_target(settings)
    over_cluster.require(settings)
    return Channel(name=name, found=found, place=replace(place, settings=settings), emit=emit, waits=waits)


def run(channel: str, main: Callable[[], Awaitable[_Result]]) -> _Result:
    """Run a command's coroutine; what serves goes on when it is interrupted.

    Raises:
        Interrupted: A signal was received.
    """
    try:
        return interruptible.run(main)
    except Interrupted as error:
        remedy = f"what serves goes on; run the command again to go on, or go back: vllm-ci deploy abort {channel}"
        raise Interrupted(error.message, why=error.why, remedy=remedy) from error


async def planned(where: Channel, ready: Deployable, strategy: str) -> tuple[None, Current, list[str]]:
    """What would be done, in lines."""
    async with where.target() as target:
        current = await target.current()
        wanted = await where.described(ready, strategy, prepare=False)
        return None, current, plan_lines(wanted.planned(current, target), ready.release)


async def until_served(
    where: Channel, ready: Deployable, strategy: str, *, wait: bool = False
) -> tuple[Deployment | None, Current, list[str]]:
    """Deploy; ``wait``: also until the old release was ended, if it is kept ready for some time."""
    async with where.target() as target:
        done = await served(where, target, ready, strategy)
        if done is not None and done.kept:
            done = await kept_ready(where, target, done, wait=wait)
        return done, await target.current(), []


async def kept_ready(where: Channel, target: Target, done: Deployment, *, wait: bool) -> Deployment:
    """See that the old release is ended when its time is over: here, or in a process that outlives this one."""
    if wait or sys.platform != "linux":  # elsewhere no process is found again
        click.echo(f"{where.name} serves {done.release.commit[:12]}; {keeper.told(done)}", err=True)
        return await keeper.until_ended(target, where, done, where.rules(target))
    keeper.start(where)
    return done


async def served(where: Channel, target: Target, ready: Deployable, strategy: str = "") -> Deployment | None:
    """Begin or resume the deployment of a release, as far as it goes now; ``None`` when it serves already.

    Raises:
        BusyError: Another command is changing the channel.
    """
    wanted = await where.described(ready, strategy)
    with where.journal.changing(where.name):
        made = await verbs.begun(target, where.journal, wanted)
        return made and await Rollout(target, where.journal, made, where.rules(target)).run()


async def gone_back(where: Channel, target: Target, release: Release) -> Deployment | None:
    """Make an earlier release serve, at once if it is still ready; ``None`` when it serves already."""
    wanted = where.wanted(release, await target.current())
    wanted = wanted or await where.again(release)
    return await verbs.go_back(target, where.journal, wanted, where.rules(target))
