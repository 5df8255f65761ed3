"""A process of its own that ends an old release when it need not be kept ready any more, so that a command can end before."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio

from vllm_ci.cli import background
from vllm_ci.deploy.journal import BusyError
from vllm_ci.deploy.rollout import Rollout

if TYPE_CHECKING:
    from vllm_ci.cli.deploying import Channel
    from vllm_ci.deploy.deployment import Deployment
    from vllm_ci.deploy.rules import Rules
    from vllm_ci.deploy.target import Target

_NAME = "keeper"
_LOOK_S = 1.0
_AGAIN_S = 0.2


def mark(where: Channel) -> str:
    """What marks the process in its environment."""
    return background.mark(where, _NAME)


def start(where: Channel) -> None:
    """Start it; it outlives this command. If it dies, the next command for the channel does what it was to do.

    Raises:
        ErroredError: It cannot be started.
    """
    background.start(
        where,
        _NAME,
        "finish",
        what=f"ends the old release of {where.name} later",
        why="the new release serves",
        remedy=f"end the old one with: vllm-ci deploy finish {where.name}",
    )


async def until_ended(target: Target, where: Channel, deployment: Deployment, rules: Rules) -> Deployment:
    """Wait while the old revision is kept ready, without holding the lock, then end it; unless others took over meanwhile."""
    while deployment.kept:
        await anyio.sleep(max(min(deployment.since + deployment.step.hold_s - rules.clock(), _LOOK_S), 0.0))
        now = where.journal.read()
        if now is None or now.id != deployment.id or now.ended:
            return replace(deployment, phase="live", reason=f"another command has changed {where.name} since")
        if rules.clock() < now.since + now.step.hold_s:
            continue
        with suppress(BusyError), where.journal.changing(where.name):
            deployment = await Rollout(target, where.journal, now, rules).run()
        await anyio.sleep(_AGAIN_S if deployment.kept else 0)  # a rollback is about to need it
    return deployment


def told(deployment: Deployment) -> str:
    """Until when the old release is kept ready, in words."""
    end = datetime.fromtimestamp(deployment.since + deployment.step.hold_s, UTC)
    return f"the old release is kept ready until {end:%H:%M:%S} UTC, for a rollback at once"
