"""``vllm-ci data drift``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vllm_ci.cli import options
from vllm_ci.cli.options import Number, config_option, option
from vllm_ci.cli.output import json_option, print_json

if TYPE_CHECKING:
    from vllm_ci.datasets.drift import Look

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(name="drift")
@click.argument("channel")
@option("--model", metavar="REF", default="", help="Model, e.g. chat@champion; by default the one that serves.")
@option("--data", type=_FOLDER, metavar="FOLDER", help="Folder with the model's train.jsonl, if its own data is not here.")
@option("--days", type=Number(0), default=7.0, show_default=True, help="Age of the oldest requests that are compared.")
@option("--rows", type=click.IntRange(20), default=100, show_default=True, help="Fewest conversations that are enough to tell.")
@click.option("--region", multiple=True, default=("US",), show_default=True, help="Country whose telephone numbers are masked.")
@option("--store", type=_FOLDER, default=Path(".vllm-ci/data"), show_default=True, help="Folder of data sets.")
@json_option
@config_option
@click.pass_context
def drift_command(
    context: click.Context,
    /,
    *,
    channel: str,
    model: str,
    data: Path | None,
    days: float,
    rows: int,
    region: tuple[str, ...],
    store: Path,
    as_json: bool,
    **_: Any,
) -> None:
    """Compare recent requests of CHANNEL with the data that its model was trained on.

    Requests come from the gateway's request log (deploy.gateway.log_requests). Compared are lengths, vocabulary, scripts, and
    signs of worse answers. Without drift, at most 1 % of the looks report it. Exit code 1: drift; 4: too few conversations.

    \b
    Examples:
      vllm-ci data drift production
      vllm-ci data drift production --model chat@champion --days 30 --json
    """
    from vllm_ci.config import drift
    from vllm_ci.datasets.drift import Settings

    asked = drift.Asked(
        channel=channel,
        model=model,
        data=data,
        datasets=store,
        days=days,
        regions=region,
        settings=Settings(rows=rows),
    )
    named, found = drift.look(options.loaded(context), asked)
    if as_json:
        print_json({"channel": channel, "model": named, **found.to_json()})
    else:
        _show(channel, named, found)
    sys.exit(found.exit_code)


def _show(channel: str, model: str, found: Look) -> None:
    click.echo(
        f"{found.outcome.value}: {found.requests} conversations of {channel}, {found.trained} that {model} was trained on"
    )
    for each in found.findings:
        state = "drift" if each.drift else "-"
        click.echo(f"  {each.name:<18} {state:<6} {each.then} -> {each.now} (distance {each.distance:.2f}, p {each.p:.2g})")
    for reason in found.reasons:
        click.echo(reason)
    if found.exit_code == 1:
        click.echo(
            f"retrain the model with recent rows: `data: {{requests: [{channel}]}}` in retrain.yaml, then vllm-ci retrain"
        )
