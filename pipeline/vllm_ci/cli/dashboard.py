"""``vllm-ci dashboard``, and what ``vllm-ci report serve`` shows first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vllm_ci.cli.options import config_option, loaded
from vllm_ci.cli.output import json_option, print_json, show
from vllm_ci.domain.errors import UsageError

if TYPE_CHECKING:
    from vllm_ci.performance.history import Series
    from vllm_ci.report.dashboard import Dashboard

MOST_RUNS = 400


@click.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default="dashboard",
    show_default=True,
    help="Folder to write to.",
)
@click.option(
    "--reports",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with a folder for each run; by default the report directory of the configuration.",
)
@click.option(
    "--measurements",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with results of `vllm-ci bench --report-dir`.",
)
@click.option("--no-ledger", is_flag=True, help="Leave out channels and releases: the ledger is not read.")
@click.option("--runs", type=click.IntRange(1), default=MOST_RUNS, show_default=True, help="Newest runs that are shown.")
@click.option("--pages", type=click.IntRange(0), default=50, show_default=True, help="Newest runs whose reports have a page.")
@json_option
@config_option
@click.pass_context
def dashboard(
    context: click.Context,
    /,
    *,
    output: Path,
    reports: Path | None,
    measurements: Path | None,
    no_ledger: bool,
    runs: int,
    pages: int,
    as_json: bool,
    **_: Any,
) -> None:
    """Write a dashboard: commits and stages, channels, releases, trends and flaky cases, as files for any web server.

    \b
    Examples:
      vllm-ci dashboard
      vllm-ci dashboard --output public --measurements results
      vllm-ci dashboard --reports collected --no-ledger --output public

    Reports that cannot be read are left out and named on the page. Only index.html and the folder reports are written; a
    folder in which these are of something else is refused.
    """
    from vllm_ci.report import dashboard_page

    board = collect(context, reports, measurements=measurements, ledger=not no_ledger, most=runs)
    page = dashboard_page.write(board, output, pages=pages)
    if as_json:
        counts = {"runs": len(board.runs), "releases": len(board.records), "left_out": list(board.notes)}
        print_json({"page": str(page), **counts})
        return
    for note in board.notes:
        show(f"left out: {note}", err=True)
    click.echo(page)


def collect(
    context: click.Context,
    reports: Path | None,
    *,
    measurements: Path | None = None,
    ledger: bool = True,
    most: int = MOST_RUNS,
) -> Dashboard:
    """Read what a dashboard shows.

    Raises:
        ConfigError: There is no configuration, and it is needed.
        ErroredError: The ledger cannot be read.
    """
    from vllm_ci.config import releases
    from vllm_ci.release import past
    from vllm_ci.report.dashboard import Dashboard, read

    project = loaded(context) if ledger or reports is None else None
    folder = reports or (project.folder / project.config.report.directory if project else Path())
    runs, notes = read(folder, most)
    series, unread = _series(measurements)
    notes = [*notes, *unread]
    if not (ledger and project):
        return Dashboard(title=folder.resolve().name, runs=runs, series=series, notes=notes)
    found = past.past(releases.of(project).setup)
    title = project.config.name or project.folder.name
    return Dashboard(title=title, runs=runs, records=found.records, heads=found.heads, series=series, notes=notes)


def _series(folder: Path | None) -> tuple[Sequence[Series], list[str]]:
    """Stored measurements, and what is left out of them."""
    from vllm_ci.performance import history

    if folder is None:
        return (), []
    documents, left_out = history.read(folder)
    try:
        return history.series(documents), left_out
    except UsageError as error:  # the extra is not installed
        return history.series(documents, searched=False), [*left_out, str(error).splitlines()[0]]
