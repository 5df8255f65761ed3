"""``vllm-ci deploy``."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from vllm_ci.cli import deploy_verbs, waking, watching
from vllm_ci.cli.moves import opened
from vllm_ci.cli.options import config_option, option
from vllm_ci.cli.output import json_option, print_json

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
@click.option("--wait", is_flag=True, help="Wait until the old release, which is kept ready for deploy.keep_s, was ended.")
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
    wait: bool,
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
    analysis does. When all requests go to the new release, the command ends; the old release is kept ready for deploy.keep_s
    seconds more, and a process in the background ends it then. A command that was interrupted or killed is run again: it goes
    on where it was.

    A channel with deploy.protocol: grpc serves vLLM's gRPC service instead of the OpenAI-compatible API.

    Exit code: 0 the release serves, 1 it went back, 2 usage, 3 errored, 4 a person has to decide.
    """
    from vllm_ci.cli import deploy_output, deploying
    from vllm_ci.release.deployed import deployable

    found = opened(context)
    with watching.watch() as emit:
        chosen = target or found.loaded.config.deploy.of(channel).target
        where = deploying.channel(found, channel, emit=emit, target=chosen, waits=watch)
        ready = deployable(found.setup, channel, emit=emit).require(channel)
        work = deploying.planned if dry_run else partial(deploying.until_served, wait=wait)
        done, current, lines = deploying.run(channel, lambda: work(where, ready, strategy or ""))
        if not dry_run:
            waking.ensure(where, anew=True)
    if as_json:
        print_json(deploy_output.run_json(where, ready, done, current, lines, dry_run=dry_run))
        return deploy_output.exit_code(done)
    if dry_run:
        click.echo("\n".join(lines))
        return 0
    deploy_output.result(done, ready.release, channel, current, logs=where.journal.logs)
    return 0


for each in (
    deploy_verbs.status,
    deploy_verbs.logs,
    deploy_verbs.scale,
    deploy_verbs.finish,
    deploy_verbs.compare,
    deploy_verbs.stop,
    deploy_verbs.promote,
    deploy_verbs.abort,
    waking.idle,
):
    deploy.add_command(each)
