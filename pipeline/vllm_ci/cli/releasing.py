"""What the release commands have in common: the set-up from the configuration, and how a move is shown."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vllm_ci.cli import options
from vllm_ci.cli.options import config_option, option
from vllm_ci.cli.output import json_option, print_json
from vllm_ci.domain.errors import ConfigError, FailedError, UsageError
from vllm_ci.system import vcs

if TYPE_CHECKING:
    from vllm_ci.config.load import Loaded
    from vllm_ci.evidence.bundle import Signer, Trusted
    from vllm_ci.release.moved import Moved
    from vllm_ci.release.setup import Setup

_Command = TypeVar("_Command", bound=Callable[..., Any])
STATE = ".vllm-ci"


def release_options(command: _Command) -> _Command:
    """What every command that moves a channel takes."""
    for each in (
        json_option,
        option("--key", metavar="KEY", help="Key to sign with (PEM file, env:NAME or URI); by default release.key."),
        option("--reason", default="", help="Why, for the record."),
        option("--osv", type=click.Path(exists=True, path_type=Path), help="OSV data (file, ZIP or folder) to scan with, now."),
        click.option("--dry-run", is_flag=True, help="Say exactly what would change, and change nothing."),
        config_option,
    ):
        command = each(command)
    return command


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A project as the release commands work on it.

    Attributes:
        loaded: The configuration.
        setup: What it says of releases.
        state: Folder on this machine for what is not configured elsewhere.
        embedded: No registry is configured: everything stays in that folder.
    """

    loaded: Loaded
    setup: Setup
    state: Path
    embedded: bool


def opened(context: click.Context) -> Opened:
    """Configuration and set-up for a command.

    Raises:
        ConfigError: The configuration is not valid, or a trusted key cannot be read.
    """
    return set_up(options.loaded(context))


def set_up(loaded: Loaded) -> Opened:
    """What a configuration says of releases, ready to be used.

    Raises:
        ConfigError: A trusted key cannot be read, or the ledger's repository is not known.
    """
    from vllm_ci.registry.access import Access
    from vllm_ci.release.ledger import Ledger
    from vllm_ci.release.setup import Setup

    section = loaded.config.release
    state = loaded.folder.resolve() / STATE
    embedded = not section.repository
    stages = loaded.config.stages.enabled()
    channels = {name: each.domain(name, image=section.image_name, stages=stages) for name, each in section.channels.items()}
    setup = Setup(
        repository=section.repository or f"oci:{state / 'registry'}",
        subject=section.repository or f"localhost/{loaded.name}",
        # Only a path that was written down may be made: a remote that is not there is out of reach, not empty.
        ledger=Ledger(_ledger(loaded, state), section.ledger.branch, create=not _remote(loaded)),
        channels=channels,
        signers=_signers(loaded, state),
        key=lambda: _key(loaded, state),
        access=Access.from_environment().pushing_to(section.repository),
    )
    return Opened(loaded=loaded, setup=setup, state=state, embedded=embedded)


def with_local_key(found: Opened, *, folder: Path | None = None) -> Opened:
    """The same, with a key made on the spot where everything stays on this machine and none is configured.

    Args:
        found: What was opened.
        folder: Where the key goes; by default the state folder.
    """
    from vllm_ci.evidence import keys
    from vllm_ci.evidence.keys import PRIVATE_NAME

    section = found.loaded.config.release
    place = folder or found.state / "keys"
    if not found.embedded or section.key or section.signers or (place / PRIVATE_NAME).exists():
        return found
    if folder is None:
        keep_out_of_git(found.state)
        click.echo(f"made a key to sign with: {place / PRIVATE_NAME}", err=True)
    public = keys.generate(place)
    setup = dataclasses.replace(
        found.setup,
        signers={"release": public},
        key=lambda: keys.load(str(place / PRIVATE_NAME), environment={}),
    )
    return dataclasses.replace(found, setup=setup)


def keep_out_of_git(state: Path) -> None:
    """Make the state folder, and nothing in it anything that git would take: there are keys in it."""
    state.mkdir(exist_ok=True)
    if not (state / ".gitignore").exists():
        (state / ".gitignore").write_text("*\n", encoding="utf-8")


def show_move(moved: Moved, *, as_json: bool) -> None:
    """Print a move; a refused one ends the command with exit code 1."""
    if as_json:
        print_json(moved.to_json())
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
        click.echo(f"{moved.channel} stands at {release.commit[:12]} {release.digest[:19]}: nothing to change")
    else:
        stands = "would stand" if moved.dry_run else "stands"
        click.echo(f"{moved.channel} {stands} at {release.commit[:12]} {release.digest[:19]}{previous}")


def show_release(context: click.Context, key: str, *, as_json: bool) -> bool:
    """Print what is known about a commit, tag or digest that was released; false when it never was."""
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
        click.echo(f"channels    {', '.join(each.current) or 'none now'}")
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


def check_ledger(context: click.Context, *, mend: bool, as_json: bool) -> int:
    """Print what ledger, registry and kustomizations disagree about; exit code 1 when something is left."""
    from vllm_ci.release import doctor

    found = doctor.check(opened(context).setup, mend=mend)
    left = [each for each in found if not each.mended]
    if as_json:
        print_json({"agree": not left, "disagreements": [dataclasses.asdict(each) for each in found]})
        return FailedError.exit_code if left else 0
    for each in found:
        click.echo(
            f"{'mended' if each.mended else 'differs'}  {each.channel} {each.what}: expected {each.expected}, got {each.got}"
        )
        if each.remedy:
            click.echo(f"  do: {each.remedy}")
    click.echo(
        "ledger, registry and kustomizations agree"
        if not left
        else f"{len(left)} disagreements{'' if mend else '; repair them with --repair'}"
    )
    return FailedError.exit_code if left else 0


def narrate(*, as_json: bool, dry_run: bool = False) -> Callable[[str], None]:
    """Tells of each step on standard error, where nobody reads a program's output."""
    if as_json or dry_run or not sys.stderr.isatty():
        return lambda _: None
    return lambda step: click.echo(f"... {step}", err=True)


def _ledger(loaded: Loaded, state: Path) -> str:
    """URL or absolute path of the ledger's repository."""
    named = loaded.config.release.ledger.repository
    if not named:
        return str(state / "ledger.git")
    if "://" in named or ":" in named.partition("/")[0]:
        return named
    if _remote(loaded):
        try:
            url = vcs.git("remote", "get-url", named, cwd=loaded.folder).decode().strip()
        except vcs.GitError as error:
            raise ConfigError(
                f"release.ledger.repository: {named} is no remote, path or URL", remedy="see git remote -v, or write the URL"
            ) from error
        return url if "://" in url or ":" in url.partition("/")[0] else str((loaded.folder / url).resolve())
    return str((loaded.folder / named).resolve())


def _remote(loaded: Loaded) -> bool:
    """Whether the ledger's repository is named as a remote of the project's own."""
    named = loaded.config.release.ledger.repository
    return bool(named) and "/" not in named and ":" not in named and not (loaded.folder / named).exists()


def _signers(loaded: Loaded, state: Path) -> dict[str, Trusted]:
    from vllm_ci.evidence.keyless import Identity
    from vllm_ci.evidence.keys import PUBLIC_NAME, PublicKey

    section = loaded.config.release
    own = state / "keys" / PUBLIC_NAME
    if not section.signers:
        return {"release": PublicKey.read("release", own)} if own.exists() else {}
    found: dict[str, Trusted] = {}
    for name, each in section.signers.items():
        if isinstance(each, str):
            found[name] = PublicKey.read(name, loaded.folder / each)
        else:
            found[name] = Identity(name=name, identity=each.identity, issuer=each.issuer, trust=_trust(loaded))
    return found


def _key(loaded: Loaded, state: Path) -> Signer:
    from vllm_ci.evidence import keys
    from vllm_ci.evidence.keyless import Keyless
    from vllm_ci.evidence.keys import PRIVATE_NAME

    section = loaded.config.release
    public = loaded.folder / section.public_key if section.public_key else None
    if section.key == "keyless":
        return Keyless(trust=_trust(loaded))
    if not section.key:
        return keys.load(str(state / "keys" / PRIVATE_NAME), public_key=public)
    if section.key.partition(":")[0] in ("env", *keys.SERVICES):
        return keys.load(section.key, public_key=public)
    return keys.load(str(loaded.folder / section.key), public_key=public)


def _trust(loaded: Loaded) -> Path | None:
    named = loaded.config.release.trust_config
    return loaded.folder / named if named else None
