"""``vllm-ci keys``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from vllm_ci.cli import options
from vllm_ci.cli.options import config_option, option
from vllm_ci.cli.output import json_option, print_json
from vllm_ci.domain.errors import UsageError


@click.group()
def keys() -> None:
    """Manage the keys that sign evidence."""


@keys.command(name="generate")
@option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for the two files; by default .vllm-ci/keys.")
@option("--name", default="release", show_default=True, help="Name of the two files: NAME.key and NAME.pub.")
@option(
    "--kind",
    type=click.Choice(["ecdsa", "ed25519"]),
    default="ecdsa",
    show_default=True,
    help="Type of key; cosign verifies ecdsa only.",
)
@click.option("--plain", is_flag=True, help="No passphrase: anyone who can read the file can sign.")
@json_option
@config_option
@click.pass_context
def generate(
    context: click.Context, /, *, out: Path | None, name: str, kind: str, plain: bool, as_json: bool, **_: Any
) -> None:
    """Create a key pair; the passphrase comes from VLLM_CI_KEY_PASSPHRASE (or ..._FILE), or from a prompt.

    \b
    Examples:
      vllm-ci keys generate
      VLLM_CI_KEY_PASSPHRASE_FILE=/run/secrets/phrase vllm-ci keys generate --out keys --name ci
    """
    from vllm_ci.config.releases import STATE, keep_out_of_git
    from vllm_ci.evidence import keys as library

    if out is None:
        state = options.loaded(context).folder / STATE
        keep_out_of_git(state)
        out = state / "keys"
    passphrase = "" if plain else _passphrase()
    public = library.generate(out, kind=kind, passphrase=passphrase, name=name)
    found = {"private_key": str(out / f"{name}.key"), "public_key": str(out / f"{name}.pub"), "hint": public.hint}
    if as_json:
        print_json(found)
        return
    click.echo(f"private key  {found['private_key']}  (keep it; {'NOT encrypted' if plain else 'encrypted'})")
    click.echo(f"public key   {found['public_key']}  (commit it, and name it under release.signers)")


def _passphrase() -> str:
    from vllm_ci.evidence.keys import PASSPHRASE_ENV, passphrase_of

    given: str = passphrase_of(os.environ)
    if not given:
        if not sys.stdin.isatty():
            raise UsageError(
                "no passphrase for the key", remedy=f"set {PASSPHRASE_ENV} or {PASSPHRASE_ENV}_FILE, or pass --plain"
            )
        given = str(click.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True))
    return given
