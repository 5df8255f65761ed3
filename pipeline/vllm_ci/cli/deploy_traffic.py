"""The second half of ``vllm-ci rollback``: the ledger has moved, now the requests do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import click

from vllm_ci.cli import deploy_output, deploying
from vllm_ci.config import deployments
from vllm_ci.config.releases import Releases
from vllm_ci.deploy.deployment import Deployment, serving
from vllm_ci.deploy.journal import Journal
from vllm_ci.deploy.target import Current
from vllm_ci.domain.errors import ErroredError, Interrupted, VllmCiError
from vllm_ci.domain.events import Emit
from vllm_ci.release import history
from vllm_ci.release.record import Release


def deployed_here(found: Releases, channel: str) -> bool:
    """Whether this machine can send requests for the channel elsewhere.

    It can for what was deployed from here; and, where the target can be reached from everywhere, for what the ledger says was
    deployed, by a CI job that is long gone for instance.
    """
    place = deployments.of(found, channel)
    return place.known or (place.shared and history.deployed(found.setup.ledger.read().records, channel) is not None)


@contextmanager
def kept(found: Releases, channel: str) -> Iterator[None]:
    """Have the old release stay ready: evidence and ledger come first, and its time may be over before the requests move."""
    with Journal(deployments.of(found, channel).folder).keeping():
        yield


def moved(found: Releases, channel: str, release: Release, *, emit: Emit) -> dict[str, object]:
    """Make a release serve for a channel that is deployed; at once, if it is still ready.

    Returns:
        What ``--json`` prints of it.

    Raises:
        ErroredError: The release did not start, or the target, the ledger or the disk cannot be reached. What serves goes on.
    """
    where = deploying.channel(found, channel, emit=emit)
    begun = time.time()

    async def main() -> tuple[Deployment | None, Current]:
        async with where.target() as target:
            return await deploying.gone_back(where, target, release), await target.current()

    try:
        done, current = deploying.run(channel, main)
    except Interrupted:
        raise
    except VllmCiError as error:
        raise _behind(channel, release, str(error)) from error
    serves = current.revisions.get(serving(current)[0])
    if serves is None or not serves.serves(release):
        raise _behind(channel, release, done.reason if done else "another command changed it")
    seconds = _seconds(done, begun)
    return {"changed": done is not None, "seconds": seconds, "deployment": deploy_output.deployment_json(done)}


def _behind(channel: str, release: Release, why: str) -> ErroredError:
    return ErroredError(
        f"{channel} points to {release.commit[:12]} in the ledger, but requests do not go there yet",
        why=why,
        remedy=f"vllm-ci deploy {channel} completes it; another rollback would go back one release more",
    )


def _seconds(done: Deployment | None, begun: float) -> float:
    """Until all requests went to the release."""
    routed = [datetime.fromisoformat(each.at).timestamp() for each in done.happened if each.weights] if done else []
    return round(max(min((at for at in routed if at >= begun), default=begun) - begun, 0.0), 3)


def told(traffic: dict[str, object], channel: str) -> None:
    """Print it."""
    if traffic["changed"]:
        click.echo(f"all requests for {channel} went there after {traffic['seconds']} s")
    else:
        click.echo("it serves already")
