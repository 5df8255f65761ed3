"""``vllm-ci show``: shows a report, an image spec, a release or an image."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from vllm_ci.cli.durations import DURATIONS
from vllm_ci.cli.options import config_option, option
from vllm_ci.cli.output import json_option, print_json
from vllm_ci.domain.errors import UsageError

# A commit, its tag, or a digest of a release.
_RELEASED = re.compile(r"(sha256:)?[0-9a-f]{7,64}(-[a-z0-9._-]+)?")


@click.command()
@click.argument("what", default="latest")
@option("--durations", **DURATIONS)
@json_option
@config_option
@click.pass_context
def show(context: click.Context, /, *, what: str, durations: int, as_json: bool, **_: Any) -> None:
    """Show WHAT: a report (folder or report.json; `latest` is the newest), an image spec, a released commit, an image's digest.

    \b
    Examples:
      vllm-ci show
      vllm-ci show --durations 20
      vllm-ci show .vllm-ci/runs/20261121-101500-0123456789ab
      vllm-ci show cpu
      vllm-ci show sha256:0123...
      vllm-ci show 0123abcd
    """
    if _RELEASED.fullmatch(what):
        from vllm_ci.cli.moves import show_release

        if show_release(context, what, as_json=as_json):
            return
    if what.rpartition("@")[2].startswith("sha256:"):
        _show_image(what.rpartition("@")[2], as_json)
    elif (report := report_file(what)) is not None:
        _show_report(report, as_json, durations)
    else:
        _show_spec(what, as_json)


def report_file(what: str) -> Path | None:
    """``report.json`` of a run; ``None`` if ``what`` names none.

    Raises:
        UsageError: It is ``latest``, and there is no run.
    """
    if what == "latest":
        from vllm_ci.config import load

        loaded = load.load(load.find(Path.cwd()))
        path = loaded.folder / loaded.config.report.directory / "latest" / "report.json"
        if not path.is_file():
            raise UsageError(f"there is no report in {path.parent.parent}", remedy="create one with vllm-ci run")
        return path
    path = Path(what)
    path = path / "report.json" if path.is_dir() else path
    return path if path.is_file() and path.suffix == ".json" else None


def _show_report(path: Path, as_json: bool, durations: int) -> None:
    from vllm_ci.cli import progress
    from vllm_ci.report import document

    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is not valid JSON", why=str(error), remedy="name the folder of a run") from error
    report = document.from_json(data, name=str(path))
    if as_json:
        print_json(data)
    else:
        progress.close(progress.console(), report, str(path.parent.resolve()), durations=durations)


def _show_spec(what: str, as_json: bool) -> None:
    from vllm_ci.images import spec_file

    loaded = spec_file.load(what)
    values = {name: value for name, value in vars(loaded).items() if value not in ((), {}, None, "")}
    if as_json:
        print_json(json.loads(json.dumps(values, default=_plain)))
        return
    for name, value in values.items():
        click.echo(f"{name:<14} {json.dumps(value, default=_plain, ensure_ascii=False)}")


def _show_image(digest: str, as_json: bool) -> None:
    from vllm_ci.images import store

    config = store.image_config(digest)
    if as_json:
        print_json(config)
        return
    inner = config.get("config", {})
    click.echo(f"digest      {digest}")
    click.echo(f"platform    {config.get('os')}/{config.get('architecture')}")
    click.echo(f"created     {config.get('created', '')}")
    click.echo(f"entrypoint  {' '.join(inner.get('Entrypoint') or ())}")
    click.echo(f"user        {inner.get('User', '')}")
    click.echo(f"layers      {len(config.get('rootfs', {}).get('diff_ids', ()))}")
    for name, value in sorted((inner.get("Labels") or {}).items()):
        click.echo(f"label       {name} = {value}")


def _plain(value: object) -> object:
    return value if isinstance(value, str) else getattr(value, "__dict__", None) or str(value)
