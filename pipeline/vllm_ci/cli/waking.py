"""``vllm-ci deploy idle``, and the process that runs it: started with a deployment, replaced where it died, ended with it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import click

from vllm_ci.cli import background
from vllm_ci.cli.moves import opened
from vllm_ci.cli.options import config_option
from vllm_ci.domain.errors import UsageError

if TYPE_CHECKING:
    from vllm_ci.cli.deploying import Channel

_NAME = "waker"


@click.command()
@click.argument("channel")
@config_option
@click.pass_context
def idle(context: click.Context, /, *, channel: str, **_: Any) -> None:
    """Scale CHANNEL to zero when no requests come, and start a server for the next one, until nothing is deployed any more.

    \b
    Example:
      vllm-ci deploy idle production

    `vllm-ci deploy` starts this command in the background where deploy.scale.min is 0, and `vllm-ci agent` starts it again
    where it died. Servers that run do not need it.
    """
    import anyio

    from vllm_ci.cli import deploying
    from vllm_ci.engines.attended import attended
    from vllm_ci.targets.envoy.waker import SOCKET

    where = deploying.channel(opened(context), channel)
    if not _wanted(where):
        raise UsageError(f"{channel} is not to be scaled to zero", remedy="set `deploy.scale.min: 0` for target local")
    gateway = where.place.folder / "target" / "gateway"
    if not gateway.is_dir():
        raise UsageError(f"{channel} is not deployed on this machine", remedy=f"vllm-ci deploy {channel}")
    attended(where.place.folder / "waker.lock", gateway / SOCKET, lambda listener: anyio.run(_work, where, listener))


async def _work(where: Channel, listener: socket.socket) -> None:
    from vllm_ci.targets.local.target import LocalTarget
    from vllm_ci.targets.local.waker import Waker

    def changing() -> bool:
        last = where.journal.read()
        return where.journal.busy or (last is not None and not last.ended)

    def going_back() -> bool:
        last = where.journal.read()
        return last is not None and not last.ended and last.plan.strategy == "rollback" and where.journal.busy

    scale, waiting = where.scale, where.place.settings.waiting
    async with where.target() as target:
        if scale is not None and waiting is not None and isinstance(target, LocalTarget):
            await Waker(target, scale, waiting, changing=changing, going_back=going_back).run(listener)


def ensure(where: Channel, *, anew: bool = False) -> None:
    """Have the process run where the channel may be scaled to zero, and not run elsewhere.

    Args:
        where: The channel.
        anew: With the present settings.

    Raises:
        ErroredError: It cannot be started.
    """
    from vllm_ci.engines import detached

    wanted = _wanted(where) and (where.place.folder / "target" / "gateway").is_dir()
    running = bool(detached.marked(_mark(where)))
    if running and (anew or not wanted):
        end(where)
    if wanted and (anew or not running):
        _start(where)


def end(where: Channel) -> None:
    """End the process, if it runs."""
    from vllm_ci.engines import detached

    detached.end_marked(_mark(where))


def _wanted(where: Channel) -> bool:
    return where.scale is not None and where.scale.zero and where.place.settings.target == "local"


def _mark(where: Channel) -> str:
    return background.mark(where, _NAME)


def _start(where: Channel) -> None:
    background.start(
        where,
        _NAME,
        "idle",
        what=f"scales {where.name} to zero and wakes it",
        why="what serves goes on",
        remedy=f"start it by hand: vllm-ci deploy idle {where.name}",
    )
