"""``vllm-ci data``: training data, collected, prepared, described and removed."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vllm_ci.cli import options, watching
from vllm_ci.cli.drift import drift_command
from vllm_ci.cli.options import config_option, option
from vllm_ci.cli.output import json_option, print_json, say
from vllm_ci.domain.errors import UsageError

if TYPE_CHECKING:
    from vllm_ci.config.data_removal import Removed
    from vllm_ci.datasets.store import Kind

_store = option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".vllm-ci/data"),
    show_default=True,
    help="Folder of data sets.",
)
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group()
def data() -> None:
    """Training data in versions that never change: collected with consent and masked, prepared for one model."""


data.add_command(drift_command)


@data.command(name="collect")
@click.argument("files", nargs=-1, type=_FILE)
@click.option("--train", multiple=True, type=_FILE, metavar="FILE", help="File whose rows are all for training; repeatable.")
@click.option("--validation", multiple=True, type=_FILE, metavar="FILE", help="File whose rows are for validation; repeatable.")
@click.option("--test", multiple=True, type=_FILE, metavar="FILE", help="File whose rows are all held out; repeatable.")
@click.option(
    "--batch", nargs=2, multiple=True, type=_FILE, metavar="INPUT OUTPUT", help="Files of an OpenAI batch; repeatable."
)
@click.option("--requests", multiple=True, metavar="CHANNEL", help="The request log of this channel's gateway; repeatable.")
@click.option("--keep-days", type=float, metavar="DAYS", help="Drop rows that are older.")
@click.option("--without", multiple=True, metavar="USER", help="Drop the rows of this user or key; repeatable.")
@click.option("--region", multiple=True, default=("US",), show_default=True, help="Country whose telephone numbers are masked.")
@_store
@json_option
@config_option
@click.pass_context
def collect_command(
    context: click.Context,
    /,
    *,
    files: tuple[Path, ...],
    train: tuple[Path, ...],
    validation: tuple[Path, ...],
    test: tuple[Path, ...],
    batch: tuple[tuple[Path, Path], ...],
    requests: tuple[str, ...],
    keep_days: float | None,
    without: tuple[str, ...],
    region: tuple[str, ...],
    store: Path,
    as_json: bool,
    **_: Any,
) -> None:
    """Read rows from JSONL FILES, drop what must not be used, mask secrets and personal data, and keep each row once.

    Rows of FILES are split by their content. Of a gateway's request log (--requests, in a project), rows of keys that
    consent are read. Each dropped row is in dropped.jsonl of the version, with its file, line and reason. The same input
    again changes nothing.

    \b
    Examples:
      vllm-ci data collect chats.jsonl
      vllm-ci data collect chats.jsonl requests.jsonl --test held-out.jsonl --keep-days 90
      vllm-ci data collect --requests production --keep-days 30
      vllm-ci data collect --batch batch-input.jsonl batch-output.jsonl
    """
    from vllm_ci.datasets import collecting
    from vllm_ci.datasets.record import Source

    sources = [Source(path=each) for each in files]
    sources += [Source(path=answers, requests=asked) for asked, answers in batch]
    sources += [Source(path=each, split="train") for each in train]
    sources += [Source(path=each, split="validation") for each in validation]
    sources += [Source(path=each, split="test") for each in test]
    with ExitStack() as held:
        if requests:
            from vllm_ci.config import request_logs

            sources += held.enter_context(request_logs.sources(options.loaded(context), requests))
        emit = held.enter_context(watching.watch())
        made = collecting.collect(sources, into=store, keep_days=keep_days, removed=without, regions=region, emit=emit)
    if as_json:
        print_json(made.to_json())
        return
    click.echo(f"{'collected' if made.changed else 'unchanged'} {made.digest[:19]}: {made.rows} rows")
    _counts("dropped", made.dropped)
    _counts("masked", made.masked)
    for each in made.earlier:
        click.echo(f"holds rows of a removed user: {each}")
    click.echo(str(made.folder))


@data.command(name="prepare")
@click.argument("collected", metavar="VERSION")
@click.option(
    "--model",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Folder of the model whose chat template and tokenizer are used.",
)
@click.option("--train", "train", type=float, default=0.8, show_default=True, help="Share of the training split.")
@click.option("--validation", type=float, default=0.1, show_default=True, help="Share of the validation split.")
@click.option("--test", "test", type=float, default=0.1, show_default=True, help="Share of the test split.")
@click.option(
    "--by",
    type=click.Choice(["opening", "prompt"]),
    default="opening",
    show_default=True,
    help="What is hashed to choose a split: the user's first message, or all before the answer.",
)
@click.option(
    "--near", type=float, default=0.8, show_default=True, help="Similarity of questions that must not be in two splits."
)
@click.option("--max-tokens", type=int, default=2048, show_default=True, help="Drop rows with more tokens.")
@_store
@json_option
def prepare_command(
    *,
    collected: str,
    model: Path,
    train: float,
    validation: float,
    test: float,
    by: str,
    near: float,
    max_tokens: int,
    store: Path,
    as_json: bool,
    **_: Any,
) -> None:
    """Write the rows of a collected VERSION with the model's own chat template, count their tokens, and split them.

    VERSION is a digest (or its start) or a folder, as `data collect` prints them. A row is in the same split in every version;
    questions that are almost the same are never in two splits. The same input again changes nothing.

    \b
    Examples:
      vllm-ci data prepare sha256:3f0c51d2a4b7 --model ./checkpoint
      vllm-ci data prepare 3f0c51d2a4b7 --model ./checkpoint --train 0.7 --validation 0.1 --test 0.2
    """
    from vllm_ci.datasets import loading, preparing
    from vllm_ci.datasets.record import SPLITS, Fractions

    try:
        fractions = Fractions(train=train, validation=validation, test=test)
    except ValueError as error:
        raise UsageError(str(error), remedy="for example --train 0.8 --validation 0.1 --test 0.1") from error
    with watching.watch() as emit:
        made = preparing.prepare(
            loading.collected(_version(store, "collected", collected)),
            model=model,
            into=store,
            fractions=fractions,
            by="prompt" if by == "prompt" else "opening",
            near=near,
            max_tokens=max_tokens,
            emit=emit,
        )
    if as_json:
        print_json(made.to_json())
        return
    click.echo(f"{'prepared' if made.changed else 'unchanged'} {made.digest[:19]}")
    for each in SPLITS:
        click.echo(f"  {each:<11} {made.rows[each]:>8,} rows {made.tokens[each]:>12,} tokens")
    _counts("dropped", made.dropped)
    click.echo(str(made.folder))


@data.command(name="card")
@click.argument("prepared", metavar="VERSION")
@_store
@json_option
def card_command(*, prepared: str, store: Path, as_json: bool, **_: Any) -> None:
    """Check the files of a prepared VERSION, and print its data card: counts, lengths, sources, drops with reasons.

    \b
    Example:
      vllm-ci data card 9d1f3b0ac6e2
    """
    from vllm_ci.datasets import loading

    made = loading.prepared(_version(store, "prepared", prepared))
    if as_json:
        print_json({"digest": made.digest, **json.loads((made.folder / "card.json").read_bytes())})
        return
    click.echo((made.folder / "card.md").read_text(encoding="utf-8"), nl=False)


@data.command(name="remove")
@click.argument("users", nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="Only show what holds their rows.")
@_store
@json_option
@config_option
@click.pass_context
def remove_command(
    context: click.Context, /, *, users: tuple[str, ...], dry_run: bool, store: Path, as_json: bool, **_: Any
) -> None:
    """Delete every version that holds rows of USERS, and leave their rows out of later ones.

    A user is named as the rows name it: a key of the gateway, or the field user. In a project (vllm-ci.yaml, or --config),
    their rows in the request logs of its channels on this machine are deleted too, and models that were trained on the
    rows are named. The source files are yours: delete the rows there too.

    \b
    Examples:
      vllm-ci data remove alice --dry-run
      vllm-ci data remove alice team-7
    """
    from vllm_ci.config import data_removal

    made = data_removal.remove(users, store=store, dry_run=dry_run, loaded=options.project_if_any(context))
    if as_json:
        print_json(made.to_json())
        return
    _show_removed(made, "would delete" if dry_run else "deleted")
    if not dry_run:
        click.echo("later versions leave their rows out; delete them from the source files too")


def _show_removed(made: Removed, verb: str) -> None:
    for each in made.removal.versions:
        click.echo(f"{verb} {each.kind} {each.digest}: {each.rows} of their rows")
    for each in made.removal.earlier:
        click.echo(f"deleted before: {each.kind} {each.digest}")
    if not made.removal.versions:
        click.echo("no version holds rows of them")
    for channel, count in made.requests.items():
        click.echo(f"{verb} {count} of their rows in the request log of {channel}")
    for place in made.results:
        click.echo(f"{verb} a copy of a retraining: {place}")
    for model in made.models:
        pointing = f" ({', '.join(model.aliases)})" if model.aliases else ""
        seen = "perhaps trained on their rows" if model.problem else "trained on their rows"
        why = f": {model.problem}" if model.problem else ""
        say(f"{seen}: {model.model}@v{model.version}{pointing} {model.digest}{why}")


def _version(store: Path, kind: Kind, named: str) -> Path:
    """Folder of a version that is named by its digest, the start of it, or its folder."""
    from vllm_ci.datasets.store import Store

    start = named.removeprefix("sha256:")
    found = [each for each in Store(folder=store).versions(kind) if len(start) > 5 and each.name.startswith(start)]
    if len(found) == 1:
        return found[0]
    if not found and Path(named).is_dir():
        return Path(named)
    raise UsageError(
        f"{len(found)} versions are named {named}" if found else f"{store} has no {kind} version {named}",
        remedy=f"write its digest, or at least 6 digits of it: ls {store / kind}",
    )


def _counts(what: str, counts: Any) -> None:
    if counts:
        ordered = sorted(counts.items(), key=lambda each: -each[1])
        click.echo(f"  {what}: {', '.join(f'{name} {count}' for name, count in ordered)}")
