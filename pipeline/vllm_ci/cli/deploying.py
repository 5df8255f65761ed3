"""What the deployment commands share: the channel's target, journal and rules."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import anyio

from vllm_ci.config import deployments
from vllm_ci.config.deployments import Place
from vllm_ci.config.releases import Releases
from vllm_ci.deploy import verbs
from vllm_ci.deploy.deployment import Deployment
from vllm_ci.deploy.journal import BusyError, Journal
from vllm_ci.deploy.rollout import Rollout, Rules
from vllm_ci.deploy.strategy import Strategy, Switch
from vllm_ci.deploy.target import Current, Target
from vllm_ci.deploy.verbs import Wanted
from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.events import Emit, ignore
from vllm_ci.release import deployed, history
from vllm_ci.targets import open_target
from vllm_ci.targets.checks import Runner
from vllm_ci.targets.opening import Opening
from vllm_ci.targets.revision import revision

if TYPE_CHECKING:
    from vllm_ci.release.record import Release

_REASON_LENGTH = 300


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
        reason = failed if returned else f"{strategy}; {deployment.exposure}"
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

    async def described(
        self, release: Release, config: Mapping[str, Any], strategy: Strategy, *, keep_s: float = 0.0
    ) -> Wanted:
        """What is wanted, with servers as the configuration describes them."""
        setup, settings = self.found.setup, self.place.settings
        made = await revision(
            self.found.loaded,
            settings,
            setup,
            release,
            config,
            kept=self.place.folder / "revisions",
            emit=self.emit,
        )
        return Wanted(
            channel=self.name,
            release=release,
            revision=made,
            replicas=settings.replicas,
            strategy=strategy,
            keep_s=keep_s,
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
        UsageError: It is deployed to another target.
        ErroredError: The journal cannot be read.
    """
    place = deployments.of(found, name)
    last = Journal(place.folder).read() if place.known else None
    if target and last and last.target != target:
        raise UsageError(
            f"{name} is deployed to {last.target}, not to {target}",
            remedy=f"end it there first: vllm-ci deploy stop {name} --yes",
        )
    chosen = target or (last.target if last else place.settings.target)
    settings = place.settings.model_copy(update={"target": chosen})
    return Channel(name=name, found=found, place=replace(place, settings=settings), emit=emit, waits=waits)


async def until_ended(target: Target, where: Channel, deployment: Deployment, rules: Rules) -> Deployment:
    """Wait while the old revision is kept ready, without holding the lock, then end it; unless others took over meanwhile."""
    while deployment.kept:
        await anyio.sleep(max(deployment.since + deployment.step.hold_s - rules.clock(), 0.0))
        try:
            with where.journal.changing(where.name):
                now = where.journal.read()
                if now is None or now.id != deployment.id or not now.kept:
                    return now if now and now.id == deployment.id else replace(deployment, phase="live")
                deployment = await Rollout(target, where.journal, now, rules).run()
        except BusyError:
            return deployment
    return deployment
