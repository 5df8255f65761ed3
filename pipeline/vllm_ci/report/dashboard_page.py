"""Writes a dashboard as files for any web server: one page that loads nothing, and the pages of the reports beside it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from vllm_ci.domain.errors import ErroredError, UsageError
from vllm_ci.report import dashboard_plots, files, html
from vllm_ci.report.dashboard import Dashboard, Run, flaky

MARK = '<meta name="generator" content="vllm-ci dashboard">'
_MARKS = {"passed": "✓", "failed": "✗", "errored": "!", "inconclusive": "?"}
_MOST_RECORDS = 200
_MOST_FLAKY = 100
_REPORTS = "reports"
_LOGS = "logs"


def render(board: Dashboard, links: Mapping[str, str]) -> str:
    """The page.

    Args:
        board: What it shows.
        links: Addresses of the pages of runs, by the name of the run.
    """
    trends = [*dashboard_plots.of_runs(board.runs), *dashboard_plots.of_measurements(board.series)]
    unsteady = flaky(board.runs)
    sections = {
        "channels": ("Channels", board.heads),
        "runs": ("Commits and stages", True),
        "releases": ("Releases", board.records),
        "trends": ("Trends", trends),
        "flaky": ("Flaky cases", unsteady),
        "notes": ("Left out", board.notes),
    }
    return html.page(
        "dashboard.html.j2",
        styles=("report.css", "dashboard.css"),
        script="dashboard.js",
        board=board,
        links=links,
        headline=_headline(board),
        made_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        parts=[(id_, title) for id_, (title, found) in sections.items() if found],
        marks=_MARKS,
        words=lambda run: _words(board, run),
        moves=dashboard_plots.timeline(board),
        kind=dashboard_plots.move_kind,
        most_records=_MOST_RECORDS,
        trends=trends,
        flaky=unsteady[:_MOST_FLAKY],
    )


def write(board: Dashboard, folder: Path, *, pages: int) -> Path:
    """Write ``index.html`` and, below ``reports``, the pages of the newest runs, rendered from their data.

    Args:
        board: What is shown.
        folder: Where; created if it does not exist. Other files in it stay.
        pages: Number of runs whose pages are written; older ones are removed.

    Returns:
        The page.

    Raises:
        UsageError: The folder has an ``index.html`` or ``reports`` of something else.
        ErroredError: It cannot be written.
    """
    index = folder / "index.html"
    _check(folder, index)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        copied, unshown = _write_reports(board.runs[:pages], folder / _REPORTS)
        links = {name: f"{_REPORTS}/{quote(name)}/report.html" for name in copied}
        part = folder / f".index.{os.getpid()}"
        shown = replace(board, notes=[*board.notes, *unshown])
        part.write_text(render(shown, links), encoding="utf-8", errors="backslashreplace")
        part.replace(index)
        # The new page is there: nothing leads to the older ones any more.
        _remove_others(folder / _REPORTS, copied)
    except OSError as error:
        raise ErroredError(
            f"cannot write the dashboard to {folder}", why=str(error), remedy="free some space, or name another folder"
        ) from error
    return index


def _check(folder: Path, index: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is no folder", remedy="name a folder with --output")
    ours = index.is_file() and MARK in index.read_text(encoding="utf-8", errors="replace")[:2000]
    if not ours and (index.exists() or (folder / _REPORTS).exists()):
        raise UsageError(
            f"{folder} has an index.html or a folder {_REPORTS} that is not of a dashboard",
            why="it would be overwritten",
            remedy="name another folder with --output",
        )


def _write_reports(runs: Iterable[Run], into: Path) -> tuple[list[str], list[str]]:
    """Names of the runs whose pages are there, and why others are not; a page never changes, so one that is there is kept.

    Only data is taken from the folder of a run. The HTML in it may be of anybody, such as in artifacts of a pull request, and
    would act with the rights of the site.
    """
    there, unshown = [], []
    for run in runs:
        place = into / run.name
        if not (run.folder / "report.html").is_file():
            continue
        if not (place / "report.html").is_file():
            part = into / f".part-{os.getpid()}"
            shutil.rmtree(part, ignore_errors=True)
            (part / _LOGS).mkdir(parents=True)
            try:
                _write_report(run.folder, part)
            except OSError:
                raise
            except Exception as error:  # noqa: BLE001 - free values of a report can be anything
                unshown.append(f"page of {run.name}: {type(error).__name__}: {str(error)[:200]}")
                shutil.rmtree(part, ignore_errors=True)
                continue
            shutil.rmtree(place, ignore_errors=True)
            part.rename(place)
        there.append(run.name)
    return there, unshown


def _write_report(source: Path, target: Path) -> None:
    """The page of a run, rendered from its data, and its logs as text files."""
    report = files.read(source).report
    for log in () if (source / _LOGS).is_symlink() else (source / _LOGS).glob("*.log"):
        if log.is_file() and not log.is_symlink():
            shutil.copyfile(log, target / _LOGS / log.name)
    stages = {stage.name for stage in report.stages}
    logs = {log.stem: log.read_text(encoding="utf-8", errors="replace") for log in sorted((target / _LOGS).iterdir())}
    page = html.from_report(report, {name: text for name, text in logs.items() if name not in stages})
    (target / "report.html").write_text(page, encoding="utf-8", errors="backslashreplace")


def _remove_others(folder: Path, kept: Iterable[str]) -> None:
    wanted = set(kept)
    for each in folder.iterdir() if folder.is_dir() else ():
        if each.name not in wanted and each.is_dir() and not each.is_symlink():
            shutil.rmtree(each, ignore_errors=True)


def _headline(board: Dashboard) -> str:
    runs, moves = len(board.runs), len(board.records)
    commits = len({run.commit.sha for run in board.runs if run.commit})
    return ", ".join(
        f"{count} {what}{'' if count == 1 else 's'}" for count, what in ((runs, "run"), (commits, "commit"), (moves, "release"))
    )


def _words(board: Dashboard, run: Run) -> str:
    """What the search finds beyond the text of a row."""
    commit = run.commit
    found = (run.digest, commit.sha if commit else "", commit.ref if commit else "", *board.channels_of(run))
    return " ".join(found).lower()
