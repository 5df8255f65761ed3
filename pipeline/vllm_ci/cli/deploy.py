"""``vllm-ci deploy``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vllm_ci.cli import watching
from vllm_ci.cli.moves import opened
from vllm_ci.cli.options import config_option, option
from vllm_ci.cli.output import json_option, print_json
from vllm_ci.domain.errors import FailedError, UsageError

if TYPE_CHECKING:
    from vllm_ci.cli.deploying import Channel
    from vllm_ci.deploy.deployment import Deployment
    from vllm_ci.deploy.target import Current, Target

_Result = TypeVar("_Result")
_STRATEGIES = ("blue-green", "rolling", "canary", "shadow")
_TARGETS = ("local", "kubernetes", "memory")
_OWN = "run"


class ChannelGroup(click.Group):
    """``deploy CHANNEL`` is ``deploy run CHANNEL``; a channel with the name of a command is reached by the long form."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert the command that is left out."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [_OWN, *args]
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command; any other word is a channel."""
        return super().get_command(ctx, cmd_name) or self.commands[_OWN]


@click.group(cls=ChannelGroup, subcommand_metavar="CHANNEL [OPTIONS] | COMMAND [ARGS]...")
def deploy() -> None:
    """Make the release that CHANNEL points to serve, and look after what serves.

    \b
    Examples:
      vllm-ci deploy staging
      vllm-ci deploy production --strategy canary --watch
      vllm-ci deploy status production
    """


@deploy.command(_OWN)
@click.argument("channel")
@option("--strategy", type=click.Choice(_STRATEGIES), help="How it replaces the old one. Default: deploy.strategy.")
@option("--target", type=click.Choice(_TARGETS), help="Where it serves. Default: deploy.target.")
@click.option("--watch", is_flag=True, help="Wait for a person where the plan needs one, instead of ending.")
@click.option("--dry-run", is_flag=True, help="Only show the plan.")
@json_option
@config_option
@click.pass_context
def run(
    context: click.Context,
    /,
    *,
    channel: str,
    strategy: str | None,
    target: str | None,
    watch: bool,
    dry_run: bool,
    as_json: bool,
    **_: Any,
) -> int:
    """Make the release that CHANNEL points to serve: its evidence is verified, then the strategy's steps are taken.

    \b
    Examples:
      vllm-ci deploy staging
      vllm-ci deploy production --strategy canary
      vllm-ci deploy production --dry-run

    It goes back by itself when a server of the new release dies or is not ready in time, when a check fails, or when the
    analysis does. When all requests go to the new release, the old one is kept ready for deploy.keep_s seconds; Ctrl-C leaves
    it ready. A command that was interrupted or killed is run again: it goes on where it was.

    Exit code: 0 the release serves, 1 it went back, 2 usage, 3 errored, 4 a person has to decide.
    """
    from vllm_ci.cli import deploy_output, deploying, interruptible
    from vllm_ci.deploy import verbs
    from vllm_ci.deploy.rollout import Rollout
    from vllm_ci.release.deployed import deployable

    found = opened(context)
    with watching.watch() as emit:
        chosen = target or found.loaded.config.deploy.of(channel).target
        where = deploying.channel(found, channel, emit=emit, target=chosen, waits=watch)
        ready = deployable(found.setup, channel, emit=emit)
        _require(ready.decision.reasons, allowed=ready.decision.allowed, commit=ready.release.commit, channel=channel)
        settings = where.place.settings

        async def main() -> tuple[Deployment | None, Current, list[str]]:
            async with where.target() as opened_target:
                wanted = await where.described(
                    ready.release, ready.config, settings.plan(strategy or ""), keep_s=settings.keep_s
                )
                if dry_run:
                    current = await opened_target.current()
                    return None, current, deploy_output.plan_lines(wanted.planned(current, opened_target), ready.release)
                rules = where.rules(opened_target)
                with where.journal.changing(channel):
                    made = await verbs.begun(opened_target, where.journal, wanted)
                    done = made and await Rollout(opened_target, where.journal, made, rules).run()
                if done is not None and done.kept:
                    click.echo(
                        f"{channel} serves {done.release.commit[:12]}; the old release is kept ready for {settings.keep_s:g} s",
                        err=True,
                    )
                    done = await deploying.until_ended(opened_target, where, done, rules)
                return done, await opened_target.current(), []

        done, current, lines = interruptible.run(main)
    if as_json:
        print_json(
            {
                "channel": channel,
                "target": settings.target,
                "release": {"commit": ready.release.commit, "digest": ready.release.digest},
                "decision": {"allowed": True, "reasons": list(ready.decision.reasons)},
                "changed": done is not None,
                "dry_run": dry_run,
                "plan": lines,
                "deployment": deploy_output.deployment_json(done),
                "current": deploy_output.current_json(current),
            }
        )
        return deploy_output.exit_code(done)
    if dry_run:
        click.echo("\n".join(lines))
        return 0
    deploy_output.result(done, ready.release, channel, current)
    return 0


def _require(reasons: tuple[str, ...], *, allowed: bool, commit: str, channel: str) -> None:
    if not allowed:
        raise FailedError(
            f"{commit[:12]} may not serve for {channel}",
            why="; ".join(reasons),
            remedy=f"vllm-ci policy explain {channel} shows every rule",
        )


@deploy.command()
@click.argument("channel")
@json_option
@config_option
@click.pass_context
def status(context: click.Context, /, *, channel: str, as_json: bool, **_: Any) -> None:
    """Show what runs for CHANNEL, and how requests are shared.

    \b
    Example:
      vllm-ci deploy status production --json
    """
    from vllm_ci.cli import deploy_output

    async def look(where: Channel, target: Target) -> tuple[Current, Deployment | None]:
        return await target.current(), where.journal.read()

    current, last = _with_target(context, channel, look)
    if as_json:
        print_json(
            {
                "channel": channel,
                **deploy_output.current_json(current),
                "deployment": deploy_output.deployment_json(last),
            }
        )
    else:
        deploy_output.show(current, last, channel)


@deploy.command()
@click.argument("channel")
@click.option("--replica", help="Only this one; by default all of them.")
@click.option("--lines", type=click.IntRange(1), default=50, show_default=True, help="Of each log.")
@json_option
@config_option
@click.pass_context
def logs(context: click.Context, /, *, channel: str, replica: str | None, lines: int, as_json: bool, **_: Any) -> None:
    """Show the end of the logs of CHANNEL's servers.

    \b
    Example:
      vllm-ci deploy logs production --lines 200
    """

    async def read(_: Channel, target: Target) -> dict[str, str]:
        names = [replica] if replica else [each.name for each in (await target.current()).replicas]
        return {name: await target.logs(name, lines=lines) for name in names}

    found = _with_target(context, channel, read)
    if as_json:
        print_json({"channel": channel, "logs": found})
        return
    for name, text in found.items():
        click.echo(f"==> {name} <==\n{text}")


@deploy.command()
@click.argument("channel")
@click.argument("replicas", type=click.IntRange(1, 1000))
@json_option
@config_option
@click.pass_context
def scale(context: click.Context, /, *, channel: str, replicas: int, as_json: bool, **_: Any) -> None:
    """Run REPLICAS servers of what serves for CHANNEL; the next `vllm-ci deploy` takes the number of the configuration again.

    \b
    Example:
      vllm-ci deploy scale production 4
    """
    from vllm_ci.cli import deploy_output
    from vllm_ci.deploy import verbs

    async def change(where: Channel, target: Target) -> Current:
        return await verbs.scale(target, where.journal, channel, replicas)

    current = _with_target(context, channel, change)
    if as_json:
        print_json({"channel": channel, **deploy_output.current_json(current)})
    else:
        click.echo(f"{channel} runs {replicas} servers")


@deploy.command()
@click.argument("channel")
@click.option("--yes", is_flag=True, help="Do it; without, only say what would end.")
@json_option
@config_option
@click.pass_context
def stop(context: click.Context, /, *, channel: str, yes: bool, as_json: bool, **_: Any) -> None:
    """End gateway and servers of CHANNEL; open requests may end first, within deploy.drain_s.

    \b
    Example:
      vllm-ci deploy stop staging --yes
    """
    from vllm_ci.deploy import verbs

    async def end(where: Channel, target: Target) -> int:
        count = len((await target.current()).replicas)
        if yes:
            await verbs.stop(target, where.journal, channel)
        return count

    count = _with_target(context, channel, end)
    if as_json:
        print_json({"channel": channel, "replicas": count, "stopped": yes})
    else:
        click.echo(
            f"{'ended' if yes else 'would end'} {count} servers of {channel}{'' if yes else '; nothing ended: give --yes'}"
        )


def _decision(verb: str, text: str) -> click.Command:
    @click.command(verb, help=text)
    @click.argument("channel")
    @json_option
    @config_option
    @click.pass_context
    def decide(context: click.Context, /, *, channel: str, as_json: bool, **_: Any) -> int:
        from vllm_ci.cli import deploy_output, deploying
        from vllm_ci.deploy import verbs

        async def work(where: Channel, target: Target) -> tuple[Deployment, Current]:
            rules = where.rules(target)
            done = await verbs.decide(target, where.journal, channel, "promote" if verb == "promote" else "abort", rules)
            if done.kept and verb == "promote":
                done = await deploying.until_ended(target, where, done, rules)
            return done, await target.current()

        done, current = _with_target(context, channel, work)
        wanted = done.phase == "returned" if verb == "abort" else done.phase not in ("returned", "held")
        if as_json:
            found = {"deployment": deploy_output.deployment_json(done), **deploy_output.current_json(current)}
            print_json({"channel": channel, **found})
            return 0 if wanted else deploy_output.exit_code(done)
        if verb == "abort" and wanted:
            click.echo(f"{channel} serves what served before; {done.exposure}")
            return 0
        deploy_output.result(done, done.release, channel, current)
        return 0

    return decide


_PROMOTE = """Let a deployment of CHANNEL that waits for a person go on.

\b
Example:
  vllm-ci deploy promote production
"""
_ABORT = """Give a deployment of CHANNEL up that is not live yet: what served before serves again.

\b
Example:
  vllm-ci deploy abort production
"""
deploy.add_command(_decision("promote", _PROMOTE))
deploy.add_command(_decision("abort", _ABORT))


def _with_target(context: click.Context, name: str, work: Callable[[Channel, Target], Awaitable[_Result]]) -> _Result:
    """Do something with the target that serves a channel."""
    from vllm_ci.cli import deploying, interruptible

    with watching.watch() as emit:
        where = deploying.channel(opened(context), name, emit=emit)
        if not where.place.known:
            raise UsageError(f"{name} is not deployed from this machine", remedy=f"vllm-ci deploy {name}")

        async def main() -> _Result:
            async with where.target() as target:
                return await work(where, target)

        return interruptible.run(main)
