"""``vllm-ci agent``."""

from __future__ import annotations

import shlex
import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

import click

from vllm_ci.cli.options import Number, config_option, option
from vllm_ci.domain.errors import ErroredError, Interrupted, VllmCiError


@click.command()
@click.argument("channels", nargs=-1, required=True, metavar="CHANNEL...")
@option(
    "--interval",
    type=Number(min=1, max=3600),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks at the ledger.",
)
@click.option("--once", is_flag=True, help="Look once, do what is to be done, and end.")
@click.option("--unit", is_flag=True, help="Print a systemd unit that runs this command, and end.")
@config_option
@click.pass_context
def agent(
    context: click.Context,
    /,
    *,
    channels: tuple[str, ...],
    interval: float,
    once: bool,
    unit: bool,
    config: Path | None,
    **_: Any,
) -> int:
    """Keep this machine at what the ledger says: what CHANNEL points to is what serves.

    \b
    Examples:
      vllm-ci agent staging production
      vllm-ci agent production --once
      vllm-ci agent production --unit > ~/.config/systemd/user/vllm-ci-agent.service

    It deploys a release that a channel was pointed to, goes back when the channel was rolled back, completes a deployment whose
    command was killed, ends an old release that was kept ready, and starts servers that died. A release that went back by
    itself is not tried again. What serves goes on when the agent ends. Configuration and ledger are read again each time.

    Exit code of --once: that of the first channel that failed.
    """
    if unit:
        click.echo(unit_file(channels, interval, config), nl=False)
        return 0
    from vllm_ci.cli import agent_pass

    said: dict[str, str] = {}
    while True:
        code = 0
        for channel in channels:
            try:
                told = agent_pass.once(context, channel)
            except Interrupted:
                raise
            except VllmCiError as error:
                told, code = f"error: {error}", code or error.exit_code
            if said.get(channel) != told:
                click.echo(f"{channel}: {told}", err=True)
                said[channel] = told
        if once:
            return code
        time.sleep(interval)


def unit_file(channels: tuple[str, ...], interval: float, config: Path | None) -> str:
    """A systemd unit for the agent, in the current directory.

    Raises:
        ErroredError: The directory's name cannot be written in a unit.
    """
    folder = str((config.parent if config else Path.cwd()).absolute())
    words = [sys.executable, "-P", "-m", "vllm_ci", "agent", *channels, "--interval", f"{interval:g}"]
    words += ["--config", str(config.absolute())] if config else []
    # systemd.service(5), "Command lines": these are expanded or end a word, also within quotes.
    if any(character in " ".join([folder, *words]) for character in "%$\"'\\\n"):
        raise ErroredError(
            "a path with %, $, a quote, a backslash or a line break cannot be written in a systemd unit",
            remedy="use another directory",
        )
    template = resources.files("vllm_ci.deploy").joinpath("vllm-ci-agent.service").read_text(encoding="utf-8")
    return template.replace("@FOLDER@", folder).replace("@COMMAND@", shlex.join(words))
