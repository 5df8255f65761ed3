"""``vllm-ci verify``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vllm_ci.cli.options import config_option, option
from vllm_ci.cli.output import json_option, print_json, say
from vllm_ci.domain.errors import ConfigError, FailedError, UsageError

if TYPE_CHECKING:
    from vllm_ci.evidence.bundle import Trusted
    from vllm_ci.release.setup import Setup


@click.command()
@click.argument("image")
@click.option(
    "--key", "keys", multiple=True, metavar="[NAME=]FILE", help="Public key to trust (repeatable); by default release.signers."
)
@option("--commit", default="", help="Commit that the statements must be about.")
@option("--channel", default="", help="Also evaluate this channel's policy.")
@click.option(
    "--any-repository", is_flag=True, help="Accept statements that were made for the same image in another repository."
)
@click.option("--layers", is_flag=True, help="Read and check every layer as well, not only manifest and config.")
@json_option
@config_option
@click.pass_context
def verify(
    context: click.Context,
    /,
    *,
    image: str,
    keys: tuple[str, ...],
    commit: str,
    channel: str,
    any_repository: bool,
    layers: bool,
    as_json: bool,
    **_: Any,
) -> None:
    """Verify the evidence attached to IMAGE (a registry's NAME[:TAG][@DIGEST], oci:FOLDER..., or a channel) with public keys.

    \b
    Examples:
      vllm-ci verify registry.example.com/team/vllm@sha256:... --key release.pub
      vllm-ci verify production
      vllm-ci verify oci:./registry:staging --key ci=ci.pub --channel production
    """
    from vllm_ci.release.verify import VerifiedImage
    from vllm_ci.release.verify import verify as run

    trusted = _trusted(keys)
    # A name with a slash is one of a registry or a folder: with keys, it needs no project.
    setup = _setup(context, with_keys=bool(keys)) if not keys or channel or "/" not in image else None
    place = VerifiedImage.named(image, signers=trusted, setup=setup)
    found = run(place, commit=commit, channel=channel, any_repository=any_repository, layers=layers)
    if as_json:
        print_json(found.to_json())
        if not found.good:
            sys.exit(FailedError.exit_code)
        return
    for each in sorted(found.findings.evidence, key=lambda found: found.statement.title):
        when = f"{each.at:%Y-%m-%d %H:%M} UTC" if each.at.year > 1970 else "undated"
        say(f"verified  {each.statement.title:<26} {each.signer:<10} {when:<21} {each.digest[:19]}")
    for name, refusal in found.findings.refused.items():
        say(f"refused   {name[:19]}  {refusal.message}")
    for rule in found.decision.rules if found.decision else ():
        say(f"{'ok' if rule.ok else 'refused':<9} {rule.rule:<20} {rule.got}")
    found.require()


def _trusted(keys: tuple[str, ...]) -> dict[str, Trusted]:
    """Public keys as they are named on the command line."""
    from vllm_ci.evidence.keys import PublicKey

    trusted: dict[str, Trusted] = {}
    for each in keys:
        name, _, path = each.rpartition("=")
        trusted[name or Path(path).stem] = PublicKey.read(name or Path(path).stem, Path(path))
    return trusted


def _setup(context: click.Context, *, with_keys: bool) -> Setup:
    from vllm_ci.cli.moves import opened

    try:
        return opened(context).setup
    except ConfigError as error:
        if with_keys:
            raise
        raise UsageError(
            "no trusted signers are configured", why=error.message, remedy="name a public key: --key FILE"
        ) from error
