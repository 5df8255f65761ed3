"""``vllm-ci retrain``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vllm_ci.cli.options import option
from vllm_ci.cli.output import json_option, print_json, show
from vllm_ci.domain.errors import ErroredError, FailedError

if TYPE_CHECKING:
    from vllm_ci.domain.events import Emit
    from vllm_ci.retraining.plan import Plan, Retrained


_SHOWN_LINES = 200


@click.command()
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("retrain.yaml"),
    show_default=True,
    help="File that says how; the project's vllm-ci.yaml is in its folder or a parent folder.",
)
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Prepared data (train.jsonl, test.jsonl), in place of the data that the file names.",
)
@click.option("--promote/--no-promote", default=None, help="Also move the champion's alias; by default what the file says.")
@option("--key", metavar="KEY", help="Signing key (PEM file, env:NAME or URI); by default release.key.")
@option("--engine", type=click.Choice(["auto", "host", "dagger"]), help="Where programs and services run.")
@option("--gpus", help="GPUs of the servers that answer: none, all, or device numbers separated by commas.")
@option("--reason", default="", help="Reason, for the records.")
@click.option("--dry-run", is_flag=True, help="Check the files and the base model, and do nothing.")
@option("--show-log", is_flag=True, help="Print the end of the log of what failed, where files of this machine are lost.")
@json_option
@click.pass_context
def retrain(
    context: click.Context,
    /,
    *,
    config: Path,
    data: Path | None,
    promote: bool | None,
    reason: str,
    dry_run: bool,
    show_log: bool,
    as_json: bool,
    **_: Any,
) -> None:
    """Train a model on prepared data, compare it with the champion, and register it if it is provably better.

    Each step whose inputs are the same as before is skipped; a training that was interrupted goes on from its last checkpoint.
    Exit code 1: the trained model is not better, or a policy refuses it.

    \b
    Examples:
      vllm-ci retrain
      vllm-ci retrain --config models/tickets/retrain.yaml --promote --json
    """
    from vllm_ci.config import retraining

    asked = retraining.read(config)
    plan = retraining.plan(asked, config, data=data, reason=reason)
    if promote is not None:
        plan = replace(plan, promote=promote)
    if dry_run:
        _check(context, config, plan)
        click.echo(f"{config} is valid: {plan.name} would be trained from {plan.base}", err=True)
        return
    done = _retrain(context, config, plan, show_log=show_log)
    if as_json:
        print_json(done.to_json())
        if done.decision is not None and not done.decision.allowed:
            sys.exit(FailedError.exit_code)
        return
    _show(done)


def _check(context: click.Context, path: Path, plan: Plan) -> None:
    """Everything that can be known before anything is done."""
    from vllm_ci.config import models
    from vllm_ci.models import history

    setup = models.of(_releases(context, path))
    history.find(setup.ledger.read(), plan.base)
    for alias in (plan.champion, plan.challenger):
        setup.policy(alias)


def _releases(context: click.Context, path: Path) -> Any:
    from vllm_ci.cli import options
    from vllm_ci.config import load, releases

    context.params["config"] = load.find(path.absolute().parent)
    return releases.of(options.loaded(context))


def _retrain(context: click.Context, path: Path, plan: Plan, *, show_log: bool) -> Retrained:
    from vllm_ci.ci import current
    from vllm_ci.cli import commits, interruptible, progress
    from vllm_ci.config import models
    from vllm_ci.config.checkout import open_project
    from vllm_ci.engines import choose, open_engine
    from vllm_ci.retraining.retrain import Retraining

    found = _releases(context, path).with_local_key(note=lambda text: click.echo(text, err=True))
    setup = models.of(found)
    opened = open_project(replace(found.loaded, config=_without_model(found.loaded.config)), note=commits.note)
    engine_name, why = choose(found.loaded.config.engine)
    screen = progress.console()
    screen.print(f"{plan.name} from {plan.base} at {opened.commit.short}, engine {engine_name} ({why})")

    async def main(emit: Emit) -> Retrained:
        async with open_engine(engine_name) as engine:
            return await Retraining(
                plan=replace(plan, image=_in_source(plan.image, opened.checkout)),
                setup=setup,
                engine=engine,
                project=opened.project,
                source=opened.source(engine),
                emit=emit,
                run_url=current.run_url(),
            ).run()

    with progress.watch(screen, opened.secrets) as emit:
        try:
            return interruptible.run(lambda: main(emit))
        except ErroredError as error:
            raise _with_log(error, opened.secrets, shown=show_log) from error


def _in_source(image: str, checkout: Path) -> str:
    """The image's spec as the builder finds it: a file of the checkout has another path in a container."""
    place, root = Path(image).resolve(), checkout.resolve()
    inside = Path(image).is_absolute() and place.is_relative_to(root)
    return f"{{in.source}}/{place.relative_to(root).as_posix()}" if inside else image


def _without_model(config: Any) -> Any:
    """The configuration without the model that is served otherwise: the trained one and the champion take its place."""
    from vllm_ci.config.server import ModelConfig

    return config.model_copy(update={"model": ModelConfig(served_name=config.model.domain().served_name)})


def _with_log(error: ErroredError, secrets: tuple[str, ...], *, shown: bool) -> ErroredError:
    """Print the end of an error's log, or write all of it to a file and add its path to the error."""
    from vllm_ci.report.redaction import of_text as redacted
    from vllm_ci.system.home import home

    remedy = error.remedy
    if error.log and shown:
        for line in redacted(error.log, secrets).splitlines()[-_SHOWN_LINES:]:
            show(line, err=True)
    elif error.log:
        path = home() / "retraining" / "last.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(redacted(error.log, secrets), encoding="utf-8")
        remedy = f"{remedy}\n  log: {path}"
    return type(error)(redacted(error.message, secrets), why=redacted(error.why, secrets), remedy=redacted(remedy, secrets))


def _show(done: Retrained) -> None:
    for each in done.steps:
        click.echo(f"{each.step:<10} {'unchanged' if each.cached else 'made     '}  {each.digest[:19]}  {each.folder}")
    held = done.training.get("held_out")
    if isinstance(held, Mapping):
        prefers = f"prefers the better answer more than its base in {held['reward_accuracy']:.1%}"
        click.echo(f"training   {prefers} of {held['rows']} held-out rows, reward margin {held['reward_margin']:.3f}")
    if done.comparison is not None and done.decision is not None:
        found = done.comparison
        for who, share in (("champion", found.champion), ("challenger", found.challenger)):
            click.echo(f"{who:<10} {share.value:6.1%} right, between {share.low:.1%} and {share.high:.1%} ({found.rows} rows)")
        for rule in done.decision.rules:
            click.echo(f"  {'ok     ' if rule.ok else 'refused'}  {rule.rule:<10} {rule.got}")
    done.require()
    if done.added is None:
        click.echo(f"the trained model is {done.compared} already: nothing to change")
        return
    what = f"{done.name}@v{done.added.record.version} {done.added.record.digest[:19]}"
    sent = f"{done.added.pushed_bytes / 1e6:,.1f} MB sent, {done.added.present_bytes / 1e6:,.1f} MB there already"
    click.echo(f"registered {what}: {sent}" if done.added.changed else f"{what} is registered already")
    for move in done.moves:
        points = "now points to" if move.changed else "points to"
        click.echo(f"{done.name}@{move.alias} {points} v{move.record.version}")
