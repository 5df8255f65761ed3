"""``vllm-ci gateway``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vllm_ci.cli import options
from vllm_ci.cli.options import config_option
from vllm_ci.cli.output import json_option, print_json

if TYPE_CHECKING:
    from vllm_ci.targets.local.key_changes import Keys


@click.group()
def gateway() -> None:
    """Look after the gateway of a deployment on this machine: its keys, and its request log."""


@gateway.group()
def keys() -> None:
    """Manage the API keys that the gateway of CHANNEL accepts (deploy.gateway.api_keys: true).

    \b
    Examples:
      vllm-ci gateway keys add production team-a
      vllm-ci gateway keys list production
      vllm-ci gateway keys consent production team-a
      vllm-ci gateway keys revoke production team-a
    """


@keys.command()
@click.argument("channel")
@click.argument("name")
@click.option("--consent", is_flag=True, help="Its owner consents that requests and answers are recorded (log_requests).")
@json_option
@config_option
@click.pass_context
def add(context: click.Context, /, *, channel: str, name: str, consent: bool, as_json: bool, **_: Any) -> None:
    """Add a key and print it. Only its hash is kept: it cannot be shown again.

    \b
    Examples:
      vllm-ci gateway keys add production team-a
      vllm-ci gateway keys add production team-b --consent
    """
    from functools import partial

    import anyio

    key = anyio.run(partial(_keys(context, channel).add, name, consent=consent))
    if as_json:
        print_json({"name": name, "key": key, "consent": consent})
        return
    click.echo(key)
    click.echo("Clients send it as `Authorization: Bearer KEY`. It is shown only this once: only its hash is kept.", err=True)


@keys.command(name="list")
@click.argument("channel")
@json_option
@config_option
@click.pass_context
def list_keys(context: click.Context, /, *, channel: str, as_json: bool, **_: Any) -> None:
    """List the names of the keys.

    \b
    Example:
      vllm-ci gateway keys list production --json
    """
    found = _keys(context, channel).all()
    if as_json:
        fields = ("name", "created_at", "consents_since")
        print_json({"keys": [{each: getattr(key, each) for each in fields} for key in found]})
        return
    for key in found:
        consent = f"  consents to the request log since {key.consents_since[:19]}" if key.consents_since else ""
        click.echo(f"{key.name:40}  {key.created_at}{consent}")


@keys.command()
@click.argument("channel")
@click.argument("name")
@json_option
@config_option
@click.pass_context
def revoke(context: click.Context, /, *, channel: str, name: str, as_json: bool, **_: Any) -> None:
    """Stop accepting a key, at once and without a restart; requests that are open go on.

    \b
    Example:
      vllm-ci gateway keys revoke production team-a
    """
    import anyio

    deleted = anyio.run(_keys(context, channel).revoke, name)
    if as_json:
        print_json({"name": name, "revoked": True, "deleted_rows": deleted})
        return
    click.echo(f"{name} is no longer accepted." + _deleted(deleted))


@keys.command()
@click.argument("channel")
@click.argument("name")
@click.option("--withdraw", is_flag=True, help="The owner does not consent any more; what was recorded is deleted.")
@json_option
@config_option
@click.pass_context
def consent(context: click.Context, /, *, channel: str, name: str, withdraw: bool, as_json: bool, **_: Any) -> None:
    """Let requests and answers of a key be recorded, or stop that.

    With deploy.gateway.log_requests, chat requests are recorded from the next second on. Withdrawing takes effect before the
    command ends, also for requests that are open, and deletes what was recorded. Data sets that were collected before stay:
    `vllm-ci data remove` deletes them.

    \b
    Examples:
      vllm-ci gateway keys consent production team-a
      vllm-ci gateway keys consent production team-a --withdraw
    """
    from functools import partial

    import anyio

    deleted = anyio.run(partial(_keys(context, channel).consent, name, given=not withdraw))
    if as_json:
        print_json({"name": name, "consent": not withdraw, "deleted_rows": deleted})
        return
    told = f"Nothing of {name} is recorded any more." if withdraw else f"Requests of {name} and their answers may be recorded."
    click.echo(told + _deleted(deleted))


@gateway.command()
@click.argument("channel")
@json_option
@config_option
@click.pass_context
def requests(context: click.Context, /, *, channel: str, as_json: bool, **_: Any) -> None:
    """Show how many requests of CHANNEL are recorded, of which keys, and why others were dropped. No contents are shown.

    \b
    Example:
      vllm-ci gateway requests production
    """
    from vllm_ci.targets.local import recorded

    found = recorded.state(_keys(context, channel).folder)
    if as_json:
        print_json(found.to_json())
        return
    why_not = "not recording: deploy.gateway.log_requests is false, or the recorder does not run (deploy the channel again)"
    click.echo("recording" if found.recording else why_not)
    for each in found.keys:
        oldest = f", from {each.oldest:%Y-%m-%d %H:%M} on" if each.oldest else ""
        click.echo(f"{each.key:40}  {each.rows:>8,} rows  {each.size_bytes:>12,} bytes{oldest}")
    if found.dropped:
        click.echo("dropped: " + ", ".join(f"{name} {count}" for name, count in sorted(found.dropped.items())))


def _deleted(rows: int) -> str:
    return f" {rows} recorded rows were deleted." if rows else ""


def _keys(context: click.Context, channel: str) -> Keys:
    from vllm_ci.config import deployments, releases
    from vllm_ci.targets.local.key_changes import Keys

    found = releases.of(options.loaded(context))
    return Keys(folder=deployments.of(found, channel).folder / "target")
