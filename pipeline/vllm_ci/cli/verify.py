"""``vllm-ci verify``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vllm_ci.cli.options import config_option, option
from vllm_ci.cli.output import json_option, print_json
from vllm_ci.domain.errors import ConfigError, FailedError, UsageError

if TYPE_CHECKING:
    from vllm_ci.evidence.bundle import Trusted


@click.command()
@click.argument("image")
@click.option(
    "--key", "keys", multiple=True, metavar="[NAME=]FILE", help="Public key to trust (repeatable); by default release.signers."
)
@option("--commit", default="", help="Commit that statements have to be about.")
@option("--channel", default="", help="Also ask this channel's policy.")
@click.option("--any-repository", is_flag=True, help="Accept statements made for the same image in another repository.")
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
    """Verify what is attached to IMAGE (a registry's NAME[:TAG][@DIGEST], oci:FOLDER..., or a channel) by public keys.

    \b
    Examples:
      vllm-ci verify registry.example.com/team/vllm@sha256:... --key release.pub
      vllm-ci verify production
      vllm-ci verify oci:./registry:staging --key ci=ci.pub --channel production
    """
    from datetime import UTC, datetime

    from vllm_ci.evidence.attachment import attached
    from vllm_ci.evidence.verify import Expected, check_image, judge
    from vllm_ci.release import gathering
    from vllm_ci.release.record import Release
    from vllm_ci.release.show import evidence_json

    now = datetime.now(UTC)
    place = _place(context, image, keys, needs_policy=bool(channel))
    with place.open() as repository:
        digest = place.digest or repository.resolve(place.tag or "latest")
        if digest is None:
            raise UsageError(f"there is no {place.tag} in {repository.name}", remedy="name a tag or a digest that is there")
        check_image(repository, digest, layers=layers)
        names = () if any_repository else (place.subject,)
        expected = Expected(digest=digest, commit=commit, repositories=names)
        findings = judge(attached(repository, digest), expected, place.signers, now=now)
    decision = None
    if channel and place.setup:
        sha = commit or gathering.commit_of(findings)
        release = Release(commit=sha, digest=digest, repository=place.subject, tag="")
        decision = gathering.ask(place.setup.channel(channel), place.setup.ledger.read(), release, findings, now=now)
    good = bool(findings.evidence) and (decision is None or decision.allowed)
    if as_json:
        told = {"allowed": decision.allowed, "reasons": list(decision.reasons)} if decision else None
        print_json({"digest": digest, "verified": good, "evidence": evidence_json(findings), "decision": told})
        if not good:
            sys.exit(FailedError.exit_code)
        return
    for each in sorted(findings.evidence, key=lambda found: found.statement.title):
        when = f"{each.at:%Y-%m-%d %H:%M} UTC" if each.at.year > 1970 else "undated"
        click.echo(f"verified  {each.statement.title:<26} {each.signer:<10} {when:<21} {each.digest[:19]}")
    for name, refusal in findings.refused.items():
        click.echo(f"refused   {name[:19]}  {refusal.message}")
    for rule in decision.rules if decision else ():
        click.echo(f"{'ok' if rule.ok else 'refused':<9} {rule.rule:<20} {rule.got}")
    if not good:
        why = "; ".join(decision.reasons) if decision else "; ".join(each.message for each in findings.refused.values())
        raise FailedError(
            f"the evidence for {digest[:19]} does not verify",
            why=why or "nothing is attached to it",
            remedy="do not run this image",
        )


class _Place:
    """Where an image is, and who is trusted about it."""

    def __init__(self, *, name: str, subject: str, tag: str, digest: str, signers: Any, setup: Any) -> None:
        self.name, self.subject, self.tag, self.digest, self.signers, self.setup = name, subject, tag, digest, signers, setup

    def open(self) -> Any:
        from vllm_ci.registry.transfer import open_repository

        return open_repository(self.name, self.setup.access if self.setup else None)


def _place(context: click.Context, image: str, keys: tuple[str, ...], *, needs_policy: bool) -> _Place:
    from vllm_ci.evidence.keys import PublicKey
    from vllm_ci.registry.reference import split_name

    trusted: dict[str, Trusted] = {}
    for each in keys:
        name, _, path = each.rpartition("=")
        trusted[name or Path(path).stem] = PublicKey.read(name or Path(path).stem, Path(path))
    setup = None
    if not keys or needs_policy or "/" not in image:
        from vllm_ci.cli.releasing import opened

        try:
            setup = opened(context).setup
        except ConfigError as error:
            if keys and not needs_policy:
                raise
            raise UsageError("whom to trust is not said", why=error.message, remedy="name a public key: --key FILE") from error
        trusted = trusted or dict(setup.signers)
        if image in setup.channels:
            return _Place(name=setup.repository, subject=setup.subject, tag=image, digest="", signers=trusted, setup=setup)
    name, tag, digest = split_name(image)
    subject = setup.subject if setup and name == setup.repository else name
    return _Place(name=name, subject=subject, tag=tag, digest=digest, signers=trusted, setup=setup)
