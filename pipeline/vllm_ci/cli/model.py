"""``vllm-ci model``: versions, aliases and files of models."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vllm_ci.cli import watching
from vllm_ci.cli.model_output import show_difference, show_known, show_move
from vllm_ci.cli.moves import opened
from vllm_ci.cli.options import config_option, option
from vllm_ci.cli.output import json_option, print_json, say
from vllm_ci.domain.errors import FailedError

if TYPE_CHECKING:
    from vllm_ci.domain.commit import Commit
    from vllm_ci.domain.events import Emit
    from vllm_ci.models.evidence import Origin
    from vllm_ci.models.files import Checkpoint
    from vllm_ci.models.record import ModelRecord
    from vllm_ci.models.setup import ModelSetup

_key = option("--key", metavar="KEY", help="Signing key (PEM file, env:NAME or URI); by default release.key.")
_reason = option("--reason", default="", help="Reason, for the record.")
_dry_run = click.option("--dry-run", is_flag=True, help="Only show what would change.")


def _setup(context: click.Context) -> ModelSetup:
    from vllm_ci.config import models

    return models.of(opened(context))


@click.group()
def model() -> None:
    """Keep models beside the images: versions that never change, signed, with aliases that move like channels."""


@model.command(name="add")
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option("--gguf", type=click.Path(path_type=Path), metavar="FILE", help="Add a GGUF file instead of a folder.")
@click.option("--hub", metavar="ORG/NAME@REVISION", help="Add a model of the hub that HF_ENDPOINT names.")
@click.option("--mlflow", metavar="URI", help="Add models:/NAME/VERSION of the registry that MLFLOW_TRACKING_URI names.")
@click.option("--code", is_flag=True, help="Take Python files as well; vLLM runs them with --trust-remote-code only.")
@click.option("--base", default="", metavar="MODEL", help="Model it was made from: NAME@VERSION here, or any name.")
@click.option("--license", "licence", default="", metavar="SPDX", help="Its licence, e.g. Apache-2.0.")
@_key
@_reason
@json_option
@config_option
@click.pass_context
def add_command(
    context: click.Context,
    /,
    *,
    name: str,
    path: Path | None,
    gguf: Path | None,
    hub: str | None,
    mlflow: str | None,
    code: bool,
    base: str,
    licence: str,
    reason: str,
    as_json: bool,
    **_: Any,
) -> None:
    """Check the files of a checkpoint, push those that are not there yet, sign them, and record the next version of NAME.

    PATH is the folder of a checkpoint or adapter with safetensors files. The same files again change nothing.

    \b
    Examples:
      vllm-ci model add chat ./checkpoint --license Apache-2.0
      vllm-ci model add chat ./fine-tuned --base chat@v1
      vllm-ci model add chat --gguf model.Q4_1.gguf
      vllm-ci model add chat --hub org/name@main
      vllm-ci model add chat --mlflow models:/chat/3
    """
    from vllm_ci.config import models
    from vllm_ci.models import adding, naming

    naming.check_name(name)
    naming.check_one_source(path, gguf, hub, mlflow)
    found = opened(context).with_local_key(note=lambda text: click.echo(text, err=True))
    setup, commit = models.of(found), _commit(found.loaded.folder)
    with watching.watch() as emit, contextlib.ExitStack() as stack:
        checkpoint, origin, said = _taken(stack, path, gguf, hub, mlflow, code=code, emit=emit)
        origin = _completed(setup, origin, base, commit)
        done = adding.add(setup, name, checkpoint, origin, licence=licence or said, reason=reason, emit=emit)
    if as_json:
        print_json(done.to_json())
        return
    for each in done.left_out:
        say(f"left out {each}: a hidden file")
    what = f"{name}@v{done.record.version} {done.record.digest[:19]}"
    sent = f"{done.pushed_bytes / 1e6:,.1f} MB sent, {done.present_bytes / 1e6:,.1f} MB there already"
    click.echo(f"added {what}: {sent}" if done.changed else f"{what} has these files already: nothing to change")


def _taken(
    stack: contextlib.ExitStack,
    path: Path | None,
    gguf: Path | None,
    hub: str | None,
    mlflow: str | None,
    *,
    code: bool,
    emit: Emit,
) -> tuple[Checkpoint, Origin, str]:
    """The checkpoint, where it comes from, and the licence that its source says."""
    from vllm_ci.domain.events import step
    from vllm_ci.models import files
    from vllm_ci.models import hub as hubs
    from vllm_ci.models import mlflow as registries
    from vllm_ci.models.evidence import Origin

    if hub:
        got = stack.enter_context(hubs.downloaded(hubs.parse(hub), code=code, emit=emit))
        with step(emit, "check", hub):
            return files.check_any(got.folder, code=code), Origin(source=got.url, revision=got.commit), got.licence
    if mlflow:
        logged = stack.enter_context(registries.downloaded(registries.check(mlflow), emit=emit))
        with step(emit, "check", mlflow):
            return files.check_any(logged.folder, code=code), Origin(source=mlflow, revision=logged.version), ""
    if gguf:
        with step(emit, "check", gguf.name):
            return files.check_gguf(gguf), Origin(source=f"file:{gguf.name}"), ""
    assert path is not None  # noqa: S101 - one of them is given
    with step(emit, "check", str(path)):
        return files.check(path, code=code), Origin(source=f"file:{path.absolute().name}"), ""


def _commit(folder: Path) -> Commit | None:
    """The project's commit, for the provenance; there may be none."""
    from vllm_ci.cli import commits
    from vllm_ci.domain.errors import VllmCiError
    from vllm_ci.system import vcs

    try:
        return commits.discover(vcs.root(folder))
    except VllmCiError:
        return None


def _completed(setup: ModelSetup, origin: Origin, base: str, commit: Commit | None) -> Origin:
    from dataclasses import replace

    from vllm_ci.ci import current
    from vllm_ci.models import history, naming

    digest = ""
    if base and "@" in base and "/" not in base:
        found = history.find(setup.ledger.read(), naming.parse(base))
        base, digest = f"{found.model}@v{found.version}", found.digest
    return replace(origin, base=base, base_digest=digest, commit=commit, run=current.run_url())


@model.command(name="list")
@click.argument("name", default="")
@json_option
@config_option
@click.pass_context
def list_command(context: click.Context, /, *, name: str, as_json: bool, **_: Any) -> None:
    """List models and their versions, newest first; reads only the ledger.

    \b
    Examples:
      vllm-ci model list
      vllm-ci model list chat --json
    """
    from vllm_ci.models import history

    records = _setup(context).ledger.read()
    rows = [
        (record, [alias for alias, version in history.aliases(records, each).items() if version == record.version])
        for each in history.names(records)
        if name in ("", each)
        for record in reversed(history.versions(records, each))
    ]
    if as_json:
        print_json({"models": [_row(record, aliases) for record, aliases in rows]})
        return
    for record, aliases in rows:
        say(f"{record.model}@v{record.version:<5} {record.digest[:19]}  {record.at}  {', '.join(aliases)}".rstrip())
    if not rows:
        click.echo(f"no versions of {name}" if name else "no models yet")


def _row(record: ModelRecord, aliases: list[str]) -> dict[str, object]:
    return {
        "model": record.model,
        "version": f"v{record.version}",
        "digest": record.digest,
        "added": record.at,
        "by": record.by,
        "aliases": aliases,
    }


@model.command(name="show")
@click.argument("ref", metavar="MODEL")
@json_option
@config_option
@click.pass_context
def show_command(context: click.Context, /, *, ref: str, as_json: bool, **_: Any) -> None:
    """Show the facts, files and evidence of a version: NAME, NAME@v3, NAME@ALIAS or NAME@sha256:...

    \b
    Examples:
      vllm-ci model show chat
      vllm-ci model show chat@champion --json
    """
    from vllm_ci.models import naming, reading

    known = reading.look(_setup(context), naming.parse(ref))
    show_known(known, as_json=as_json)


@model.command(name="diff")
@click.argument("first", metavar="MODEL")
@click.argument("second", metavar="OTHER")
@json_option
@config_option
@click.pass_context
def diff_command(context: click.Context, /, *, first: str, second: str, as_json: bool, **_: Any) -> None:
    """Show which files and facts differ between two versions, and how many bytes the second one adds.

    \b
    Example:
      vllm-ci model diff chat@champion chat@v4
    """
    from vllm_ci.models import naming, reading

    setup = _setup(context)
    one, other = (reading.look(setup, naming.parse(each)) for each in (first, second))
    show_difference(reading.compare(one.model, other.model), as_json=as_json)


@model.command(name="pull")
@click.argument("ref", metavar="MODEL")
@click.option("--to", type=click.Path(file_okay=False, path_type=Path), help="Copy the files to this new or empty folder.")
@click.option(
    "--signature",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the signature to this file, for the model_signing tool.",
)
@json_option
@config_option
@click.pass_context
def pull_command(
    context: click.Context, /, *, ref: str, to: Path | None, signature: Path | None, as_json: bool, **_: Any
) -> None:
    """Fetch the files of a version to this machine, verified; they are kept by content and shared between versions.

    \b
    Examples:
      vllm-ci model pull chat@champion
      vllm-ci model pull chat@v3 --to ./chat --signature chat.sig
    """
    from vllm_ci.models import naming, pulling

    with watching.watch() as emit:
        pulled = pulling.pull(_setup(context), naming.parse(ref), emit=emit)
        if to is not None:
            pulling.copy_to(pulled, to)
    if signature is not None:
        signature.write_bytes(pulled.signature)
    if as_json:
        print_json({**pulled.to_json(), "folder": str(to or pulled.folder)})
        return
    click.echo(f"{pulled.record.model}@v{pulled.record.version} {pulled.record.digest[:19]}, signed by {pulled.signer}")
    click.echo(str(to or pulled.folder))


@model.command(name="verify")
@click.argument("ref", metavar="MODEL")
@json_option
@config_option
@click.pass_context
def verify_command(context: click.Context, /, *, ref: str, as_json: bool, **_: Any) -> None:
    """Read every file of a version in the repository, and check it and its signature; exit code 1 if anything is wrong.

    \b
    Example:
      vllm-ci model verify chat@champion
    """
    from vllm_ci.evidence.statement import MODEL_SIGNATURE
    from vllm_ci.models import naming, reading

    with watching.watch() as emit:
        known = reading.look(_setup(context), naming.parse(ref), files=True, emit=emit)
    signed = known.findings.of(MODEL_SIGNATURE)
    if as_json:
        print_json({**known.to_json(), "verified": bool(signed) and not known.problems})
        if known.problems or not signed:
            sys.exit(FailedError.exit_code)
        return
    what = f"{known.record.model}@v{known.record.version}"
    reading.require_unaltered(known.problems, what)
    if not signed:
        raise FailedError(
            f"{what} has no valid signature",
            why="; ".join(sorted({each.message for each in known.findings.refused.values()})) or "nothing is attached to it",
            remedy="add its signer to release.signers if you trust it, or add the model again",
        )
    click.echo(f"{what} {known.record.digest[:19]}: {len(known.model.layers)} files unaltered, signed by {signed[-1].signer}")


@model.command(name="alias")
@click.argument("name")
@click.argument("assignment", metavar="ALIAS=VERSION")
@_reason
@_dry_run
@json_option
@config_option
@click.pass_context
def alias_command(
    context: click.Context, /, *, name: str, assignment: str, reason: str, dry_run: bool, as_json: bool, **_: Any
) -> None:
    """Point an alias of NAME to a version, if the alias's policy allows it; VERSION is v3, another alias or a digest.

    Every file of the version is read and checked first.

    \b
    Examples:
      vllm-ci model alias chat challenger=v3
      vllm-ci model alias chat champion=challenger --reason "better on tickets"
    """
    from vllm_ci.models import aliases, naming

    alias, ref = naming.assignment(name, assignment)
    with watching.watch() as emit:
        moved = aliases.move(_setup(context), ref, alias, reason=reason, dry_run=dry_run, emit=emit)
    show_move(moved, as_json=as_json)


@model.command(name="rollback")
@click.argument("name")
@click.argument("alias")
@click.option("--to", default="", metavar="VERSION", help="Version to go back to; by default the newest earlier one.")
@_reason
@_dry_run
@json_option
@config_option
@click.pass_context
def rollback_command(
    context: click.Context, /, *, name: str, alias: str, to: str, reason: str, dry_run: bool, as_json: bool, **_: Any
) -> None:
    """Point an alias back to the newest earlier version whose evidence still verifies.

    \b
    Examples:
      vllm-ci model rollback chat champion --reason "worse on tickets"
      vllm-ci model rollback chat champion --to v1
    """
    from vllm_ci.models import aliases, naming

    naming.check_name(name)
    number = naming.earlier(to)
    with watching.watch() as emit:
        moved = aliases.rollback(_setup(context), name, alias, to=number, reason=reason, dry_run=dry_run, emit=emit)
    show_move(moved, as_json=as_json)


@model.command(name="history")
@click.argument("name", default="")
@click.argument("alias", default="")
@json_option
@config_option
@click.pass_context
def history_command(context: click.Context, /, *, name: str, alias: str, as_json: bool, **_: Any) -> None:
    """Show the records of models, newest first: versions that were added, aliases that moved; reads only the ledger.

    \b
    Examples:
      vllm-ci model history
      vllm-ci model history chat champion --json
    """
    records = [
        each
        for each in reversed(_setup(context).ledger.read())
        if name in ("", each.model) and (not alias or each.alias == alias)
    ]
    if as_json:
        print_json({"records": [each.to_json() for each in records]})
        return
    for each in records:
        before = f" (before: v{each.previous})" if each.previous else ""
        note = f"  {each.reason}" if each.reason else ""
        say(f"{each.number:>4}  {each.at}  {each.summary}{before}  {each.by.partition(' <')[0]}{note}")
    if not records:
        click.echo("no records yet")
