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
    """Look after the gateway of a deployment on this machine."""


@gateway.group()
def keys() -> None:
    """Manage the API keys that the gateway of CHANNEL accepts (deploy.gateway.api_keys: true).

    \b
    Examples:
      vllm-ci gateway keys add production team-a
      vllm-ci gateway keys list production
      vllm-ci gateway keys revoke production team-a
    """


@keys.command()
@click.argument("channel")
@click.argument("name")
@json_option
@config_option
@click.pass_context
def add(context: click.Context, /, *, channel: str, name: str, as_json: bool, **_: Any) -> None:
    """Add a key and print it. Only its hash is kept: it cannot be shown again.

    \b
    Example:
      vllm-ci gateway keys add production team-a
    """
    import anyio

    key = anyio.run(_keys(context, channel).add, name)
    if as_json:
        print_json({"name": name, "key": key})
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
        print_json({"keys": [{"name": key.name, "created_at": key.created_at} for key in found]})
        return
    for key in found:
        click.echo(f"{key.name:40}  {key.created_at}")


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

    anyio.run(_keys(context, channel).revoke, name)
    if as_json:
        print_json({"name": name, "revoked": True})
        return
    click.echo(f"{name} is no longer accepted.")


def _keys(context: click.Context, channel: str) -> Keys:
    from vllm_ci.config import deployments, releases
    from vllm_ci.targets.local.key_changes import Keys

    found = releases.of(options.loaded(context))
    return Keys(folder=deployments.of(found, channel).folder / "target")
