"""``vllm-ci deploy status|logs|scale|stop|promote|abort``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vllm_ci.cli import waking, watching
from vllm_ci.cli.moves import opened
from vllm_ci.cli.options import config_option
from vllm_ci.cli.output import json_option, print_json, show
from vllm_ci.domain.errors import UsageError

if TYPE_CHECKING:
    from vllm_ci.cli.deploying import Channel
    from vllm_ci.deploy.comparison import Comparison
    from vllm_ci.deploy.course import Course
    from vllm_ci.deploy.deployment import Deployment
    from vllm_ci.deploy.target import Current, Target
    from vllm_ci.targets.local.starts import Starts

_Result = TypeVar("_Result")


@click.command()
@click.argument("channel")
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also draw the course of the last deployment: shares, requests, errors, times to the first byte (SVG).",
)
@json_option
@config_option
@click.pass_context
def status(context: click.Context, /, *, channel: str, picture: Path | None, as_json: bool, **_: Any) -> None:
    """Show what runs for CHANNEL, and how requests are shared.

    \b
    Examples:
      vllm-ci deploy status production --json
      vllm-ci deploy status production --picture canary.svg
    """
    from vllm_ci.cli import deploy_output
    from vllm_ci.targets.local import starts

    async def look(where: Channel, target: Target) -> tuple[Current, Deployment | None, Course | None, Starts]:
        last = where.journal.read()
        course = where.journal.course(last) if last else None
        return await target.current(), last, course, starts.read(where.place.folder / "target")

    current, last, course, started = with_target(context, channel, look)
    if picture is not None:
        deploy_output.write_picture(picture, last, course, channel)
    if as_json:
        print_json(
            {
                "channel": channel,
                **deploy_output.current_json(current),
                "deployment": deploy_output.deployment_json(last),
                "course": [asdict(each) for each in course.points] if course else [],
                "starts": asdict(started),
            }
        )
    else:
        deploy_output.show(current, last, channel, started)


@click.command()
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

    found = with_target(context, channel, read)
    if as_json:
        print_json({"channel": channel, "logs": found})
        return
    for name, text in found.items():
        show(f"==> {name} <==\n{text}")


@click.command()
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

    current = with_target(context, channel, change)
    if as_json:
        print_json({"channel": channel, **deploy_output.current_json(current)})
    else:
        click.echo(f"{channel} runs {replicas} servers")


@click.command()
@click.argument("channel")
@click.option("--markdown", is_flag=True, help="Print Markdown.")
@json_option
@config_option
@click.pass_context
def compare(context: click.Context, /, *, channel: str, markdown: bool, as_json: bool, **_: Any) -> None:
    """Show how far the answers to copied requests agreed with those that users got, in the last deployment of CHANNEL.

    \b
    Examples:
      vllm-ci deploy compare production
      vllm-ci deploy compare production --markdown >> "$GITHUB_STEP_SUMMARY"

    Answers are compared by strategy `shadow` with `deploy.shadow.compare: true`.
    """
    from vllm_ci.deploy import comparison_report

    async def read(where: Channel, _: Target) -> tuple[Comparison | None, Deployment | None]:
        last = where.journal.read()
        return where.journal.comparison(last), last

    found, last = with_target(context, channel, read)
    if found is None or last is None:
        raise UsageError(
            f"no answers were compared in the last deployment of {channel}",
            remedy="set `deploy.shadow.compare: true` and deploy with --strategy shadow",
        )
    if as_json:
        commits = {"release": last.release.commit, "previous": last.previous.commit if last.previous else None}
        print_json({"channel": channel, **commits, **comparison_report.to_json(found)})
    elif markdown:
        before = last.previous.commit[:12] if last.previous else "before"
        title = f"Answers of {last.release.commit[:12]} to copies for {channel}, compared with {before}"
        show(comparison_report.markdown(found, title).removesuffix("\n"))
    else:
        show("\n".join(comparison_report.lines(found)))


@click.command()
@click.argument("channel")
@json_option
@config_option
@click.pass_context
def finish(context: click.Context, /, *, channel: str, as_json: bool, **_: Any) -> None:
    """Wait until the old release of CHANNEL need not be kept ready any more (deploy.keep_s), then end it.

    \b
    Example:
      vllm-ci deploy finish production

    `vllm-ci deploy` starts this command in the background. It is needed by hand only where that process was ended, for instance
    at the end of a CI job.
    """
    from vllm_ci.cli import deploy_output, keeper

    async def work(where: Channel, target: Target) -> tuple[bool, Deployment | None, Current]:
        last = where.journal.read()
        if last is None or not last.kept:
            return False, last, await target.current()
        return True, await keeper.until_ended(target, where, last, where.rules(target)), await target.current()

    changed, last, current = with_target(context, channel, work)
    if as_json:
        found = {"deployment": deploy_output.deployment_json(last), **deploy_output.current_json(current)}
        print_json({"channel": channel, "changed": changed, **found})
    else:
        click.echo(f"the old release of {channel} was ended" if changed else f"no old release of {channel} is kept ready")


@click.command()
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
            waking.end(where)
        return count

    count = with_target(context, channel, end)
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

        async def work(where: Channel, target: Target) -> tuple[Deployment, Current, Path]:
            rules = where.rules(target)
            done = await verbs.decide(target, where.journal, channel, "promote" if verb == "promote" else "abort", rules)
            if done.kept and verb == "promote":
                done = await deploying.kept_ready(where, target, done, wait=False)
            return done, await target.current(), where.journal.logs

        done, current, logs = with_target(context, channel, work)
        wanted = done.phase == "returned" if verb == "abort" else done.phase not in ("returned", "held")
        if as_json:
            found = {"deployment": deploy_output.deployment_json(done), **deploy_output.current_json(current)}
            print_json({"channel": channel, **found})
            return 0 if wanted else deploy_output.exit_code(done)
        if verb == "abort" and wanted:
            click.echo(f"{channel} serves what served before; {done.exposure}")
            return 0
        deploy_output.result(done, done.release, channel, current, logs=logs)
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
promote = _decision("promote", _PROMOTE)
abort = _decision("abort", _ABORT)


def with_target(context: click.Context, name: str, work: Callable[[Channel, Target], Awaitable[_Result]]) -> _Result:
    """Do something with the target that serves a channel."""
    from vllm_ci.cli import deploying

    with watching.watch() as emit:
        where = deploying.channel(opened(context), name, emit=emit)
        if not where.place.known and not where.place.shared:
            raise UsageError(f"{name} is not deployed from this machine", remedy=f"vllm-ci deploy {name}")

        async def main() -> _Result:
            async with where.target() as target:
                return await work(where, target)

        return deploying.run(name, main)
