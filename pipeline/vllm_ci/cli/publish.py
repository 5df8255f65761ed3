"""``vllm-ci publish``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vllm_ci.cli import watching
from vllm_ci.cli.moves import opened, release_options, show_move
from vllm_ci.cli.options import option


@click.command()
@click.argument("commit", default="HEAD")
@option("--channel", metavar="NAME", help="Channel; by default the first one of the configuration.")
@option(
    "--report",
    type=click.Path(exists=True, path_type=Path),
    multiple=True,
    help="Folder of a run (repeatable); by default all runs of the commit in the report directory.",
)
@option(
    "--scan",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Scan result of Trivy or Grype for the image (JSON).",
)
@release_options
@click.pass_context
def publish(
    context: click.Context,
    /,
    *,
    commit: str,
    channel: str | None,
    report: tuple[Path, ...],
    scan: Path | None,
    osv: Path | None,
    reason: str,
    dry_run: bool,
    as_json: bool,
    **_: Any,
) -> None:
    """Publish the tested image of COMMIT (by default HEAD) to a channel: check its evidence, push, sign, tag, record.

    \b
    Examples:
      vllm-ci publish --channel staging
      vllm-ci publish 0123abcd --channel staging --dry-run
      vllm-ci publish --channel staging --osv ./osv-data --json
    """
    from vllm_ci.ci import current
    from vllm_ci.cli import commits
    from vllm_ci.release.publish import publish as run
    from vllm_ci.system import scratch, vcs

    with scratch.folder("publish-") as folder:
        found = opened(context)
        made = commits.discover(vcs.root(found.loaded.folder), commit)
        candidate = found.candidate(made, report, osv=osv, scanner=scan, run=current.run_url())
        found = found.with_local_key(folder / "keys" if dry_run else None, note=lambda text: click.echo(text, err=True))
        if candidate.tested:
            found.setup.key()  # an unreadable key is reported before any network access
        name = channel or next(iter(found.setup.channels))
        with watching.watch() as emit:
            moved = run(found.setup, candidate, name, reason=reason, dry_run=dry_run, emit=emit)
    show_move(moved, as_json=as_json)
