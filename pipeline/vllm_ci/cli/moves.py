"""Common parts of the release commands: options, setup and output."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vllm_ci.cli import ci_log, options
from vllm_ci.cli.options import config_option, option
from vllm_ci.cli.output import json_option, print_json
from vllm_ci.domain.errors import FailedError, UsageError

if TYPE_CHECKING:
    from vllm_ci.config.releases import Releases
    from vllm_ci.release.moved import Moved

_Command = TypeVar("_Command", bound=Callable[..., Any])


def release_options(command: _Command) -> _Command:
    """Options of every command that changes a channel."""
    for each in (
        json_option,
        option("--key", metavar="KEY", help="Signing key (PEM file, env:NAME or URI); by default release.key."),
        option("--reason", default="", help="Reason, for the release record."),
        option(
            "--osv",
            type=click.Path(exists=True, path_type=Path),
            help="OSV data (file, ZIP or directory) for a vulnerability scan during this command.",
        ),
        click.option("--dry-run", is_flag=True, help="Only show what would change."),
        config_option,
    ):
        command = each(command)
    return command


def opened(context: click.Context) -> Releases:
    """Configuration and setup for a command.

    Raises:
        ConfigError: The configuration is invalid, or a trusted key cannot be read.
    """
    from vllm_ci.config import releases

    return releases.of(options.loaded(context))


def show_move(moved: Moved, *, as_json: bool, **more: object) -> None:
    """Print a change of a channel, with further fields in JSON; if it was refused, end the command with exit code 1."""
    if moved.decision.allowed and not moved.dry_run:
        ci_log.tell_outputs(_outputs(moved))
    if as_json:
        print_json({**moved.to_json(), **more})
        if not moved.decision.allowed:
            sys.exit(FailedError.exit_code)
        return
    would = "would " if moved.dry_run else ""
    for rule in moved.decision.rules:
        click.echo(f"  {'ok     ' if rule.ok else 'refused'}  {rule.rule:<20} {rule.got}")
    moved.require()
    for step in moved.done:
        click.echo(f"{would}{step}")
    release = moved.release
    previous = f" (before: {moved.previous.commit[:12]})" if moved.previous else ""
    if not moved.changed:
        click.echo(f"{moved.channel} already points to {release.commit[:12]} {release.digest[:19]}: nothing to change")
    else:
        points = "would point to" if moved.dry_run else "now points to"
        click.echo(f"{moved.channel} {points} {release.commit[:12]} {release.digest[:19]}{previous}")


def _outputs(moved: Moved) -> dict[str, str]:
    release = moved.release
    image = f"{release.repository}@{release.digest}" if release.repository else release.digest
    return {"commit": release.commit, "digest": release.digest, "image": image, "channel": moved.channel}


def show_release(context: click.Context, key: str, *, as_json: bool) -> bool:
    """Print a released commit, tag or digest; false if it was never released."""
    from vllm_ci.release.show import show

    try:
        shown = show(opened(context).setup, key)
    except UsageError:
        return False
    if as_json:
        print_json(shown[0].to_json())
        return True
    for each in shown:
        release = each.release
        click.echo(f"commit      {release.commit}")
        click.echo(f"image       {release.repository}@{release.digest}")
        click.echo(f"channels    {', '.join(each.current) or 'none'}")
        for record in each.records:
            click.echo(
                f"released    {record.at}  {record.action} to {record.channel}{f'  ({record.reason})' if record.reason else ''}"
            )
        for stage, verdict in each.tests.items():
            click.echo(f"tested      {stage:<14} {verdict}")
        for evidence in sorted(each.findings.evidence, key=lambda found: found.statement.title):
            click.echo(f"evidence    {evidence.statement.title:<26} signed by {evidence.signer}")
        for refusal in each.findings.refused.values():
            click.echo(f"refused     {refusal.message}")
        if each.problem:
            click.echo(f"problem     {each.problem}")
    return True


def check_ledger(context: click.Context, *, repair: bool, as_json: bool) -> int:
    """Print differences between ledger, registry and kustomizations; exit code 1 if any remain."""
    from vllm_ci.release import doctor

    found = doctor.check(opened(context).setup, repair=repair)
    left = [each for each in found if not each.repaired]
    if as_json:
        print_json(doctor.to_json(found))
        return FailedError.exit_code if left else 0
    for each in found:
        state = "repaired" if each.repaired else "differs"
        click.echo(f"{state}  {each.channel} {each.what}: expected {each.expected}, got {each.got}")
        if each.remedy:
            click.echo(f"  do: {each.remedy}")
    click.echo(
        "ledger, registry and kustomizations agree"
        if not left
        else f"{len(left)} differences{'' if repair else '; repair them with --repair'}"
    )
    return FailedError.exit_code if left else 0
