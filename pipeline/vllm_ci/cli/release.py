"""``vllm-ci promote``, ``rollback``, ``history`` and ``prune``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from vllm_ci.cli import watching
from vllm_ci.cli.moves import opened, release_options, show_move
from vllm_ci.cli.options import config_option, option
from vllm_ci.cli.output import json_option, print_json, say


@click.command()
@click.option("--from", "source", required=True, metavar="CHANNEL", help="Channel to take the release from.")
@option("--channel", required=True, metavar="CHANNEL", help="Channel to point to it.")
@release_options
@click.pass_context
def promote(
    context: click.Context,
    /,
    *,
    source: str,
    channel: str,
    osv: Path | None,
    reason: str,
    dry_run: bool,
    as_json: bool,
    **_: Any,
) -> None:
    """Point a channel to the release of another one: the same digest, never a rebuild, if the channel's policy allows it.

    \b
    Examples:
      vllm-ci promote --from staging --channel production
      vllm-ci promote --from staging --channel production --dry-run
    """
    from vllm_ci.release.promote import promote as run

    setup = opened(context).setup
    with watching.watch() as emit:
        moved = run(setup, source, channel, osv=osv, reason=reason, dry_run=dry_run, emit=emit)
    show_move(moved, as_json=as_json)


@click.command()
@click.argument("channel")
@option(
    "--to",
    default="",
    metavar="COMMIT",
    help="Commit or digest to go back to; by default the newest earlier one that verifies.",
)
@release_options
@click.pass_context
def rollback(
    context: click.Context,
    /,
    *,
    channel: str,
    to: str,
    osv: Path | None,
    reason: str,
    dry_run: bool,
    as_json: bool,
    **_: Any,
) -> None:
    """Roll CHANNEL back to the newest earlier release whose evidence still verifies.

    \b
    Examples:
      vllm-ci rollback production --reason "latency doubled"
      vllm-ci rollback production --to 0123abcd

    Where the channel was deployed from this machine, requests go to that release as well: at once, while it is kept ready.
    """
    from vllm_ci.cli import deploy_traffic
    from vllm_ci.release.rollback import rollback as run

    found = opened(context)
    serves = deploy_traffic.deployed_here(found, channel)
    traffic = None
    with deploy_traffic.kept(found, channel) if serves and not dry_run else nullcontext():
        with watching.watch() as emit:
            moved = run(found.setup, channel, to=to, osv=osv, reason=reason, dry_run=dry_run, emit=emit)
        if not as_json:
            show_move(moved, as_json=False)
        if serves and moved.decision.allowed and not dry_run:
            with watching.watch() as emit:
                traffic = deploy_traffic.moved(found, channel, moved.release, emit=emit)
    if as_json:
        show_move(moved, as_json=True, traffic=traffic)
    elif traffic:
        deploy_traffic.told(traffic, channel)
    elif serves and dry_run:
        say(f"would send all requests for {channel} there")


@click.command()
@click.argument("channel", default="")
@json_option
@config_option
@click.pass_context
def history(context: click.Context, /, *, channel: str, as_json: bool, **_: Any) -> None:
    """Show what was released, newest first, and what each channel points to; reads only the ledger.

    \b
    Examples:
      vllm-ci history
      vllm-ci history production --json
    """
    from vllm_ci.release.past import past

    found = past(opened(context).setup, channel)
    if as_json:
        print_json(found.to_json())
        return
    for each in found.records:
        mark = "*" if found.heads[each.channel] == each else " "
        note = f"  {each.reason}" if each.reason else ""
        say(
            f"{mark} {each.number:>4}  {each.at}  {each.channel:<12} {each.action:<9} "
            f"{each.release.commit[:12]}  {each.release.digest[:19]}  {each.by.partition(' <')[0]}{note}"
        )
    if not found.records:
        say("no releases yet")


@click.command()
@option("--keep", type=click.IntRange(1), default=10, show_default=True, help="Releases kept for each channel.")
@click.option("--yes", is_flag=True, help="Delete; without it, only show what would be deleted.")
@json_option
@config_option
@click.pass_context
def prune(context: click.Context, /, *, keep: int, yes: bool, as_json: bool, **_: Any) -> None:
    """Delete images (and their evidence) that no channel can roll back to any more.

    \b
    Examples:
      vllm-ci prune --keep 5
      vllm-ci prune --keep 5 --yes
    """
    from vllm_ci.release.prune import prune as run

    done = run(opened(context).setup, keep=keep, dry_run=not yes)
    if as_json:
        print_json(done.to_json())
        return
    for digest in done.deleted:
        say(f"{'deleted' if yes else 'would delete'} {digest}")
    say(f"{len(done.deleted)} images with {done.attachments} attachments, {len(done.kept)} kept")
    if done.reclaim:
        say(done.reclaim)
    if done.deleted and not yes:
        say("nothing was deleted: run again with --yes")
