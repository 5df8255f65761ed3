"""``vllm-ci report``: open a report, and compare the reports of two versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from vllm_ci.cli.options import config_option, loaded, option
from vllm_ci.cli.output import json_option, print_json, show
from vllm_ci.domain.errors import UsageError, VllmCiError
from vllm_ci.report.markdown import code

if TYPE_CHECKING:
    from vllm_ci.domain.report import Report

_IN_URL = ":/?#@&=%+-._~"


@click.group()
def report() -> None:
    """Open reports, and compare them."""


@report.command("open")
@click.argument("what", default="latest")
@config_option
def open_(what: str, **_: Any) -> None:
    """Open the page of a report in the browser: WHAT is the folder of a run, by default the newest.

    The address is printed as well, for a machine without a browser.

    \b
    Examples:
      vllm-ci report open
      vllm-ci report open .vllm-ci/runs/20261121-101500-0123456789ab
    """
    from vllm_ci.cli.show import report_file

    found = report_file(what)
    page = found.with_name("report.html") if found else None
    if page is None or not page.is_file():
        raise UsageError(f"there is no report.html for {what}", remedy="name the folder of a run")
    address = page.resolve().as_uri()
    click.echo(address)
    click.launch(address)


@report.command()
@click.argument("older", type=click.Path(exists=True, path_type=Path))
@click.argument("newer", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--format",
    "as_format",
    type=click.Choice(["text", "markdown", "json"]),
    help="How to print the comparison. Default: text.",
)
@json_option
def compare(*, older: Path, newer: Path, as_format: str | None, as_json: bool) -> int:
    """Compare the report OLDER with the report NEWER: new, fixed, still failing and flaky cases, latencies, size of the image.

    Both are the folder of a run, its report.json, or a folder with several runs of one image: these show which cases are
    flaky, and from four runs of each on, whether the latencies differ. With fewer runs a difference is a "maybe".

    \b
    Examples:
      vllm-ci report compare main-report .vllm-ci/runs/latest
      vllm-ci report compare old new --format markdown >> "$GITHUB_STEP_SUMMARY"

    Exit code: 0 nothing became worse; 1 new failures, or surely slower; 2 a report cannot be read; 4 inconclusive (cases that
    are flaky, gone, or no longer run; a stage is missing; nothing in common).
    """
    if as_json and as_format not in (None, "json"):
        raise UsageError(f"--json and --format {as_format} cannot be used together", remedy="use one of them")
    from vllm_ci.report import comparison_views as views
    from vllm_ci.report.comparison import compare as run

    found = run(_runs(older), _runs(newer))
    if as_json or as_format == "json":
        print_json(views.to_json(found, str(older), str(newer)))
    else:
        view = views.markdown if as_format == "markdown" else views.text
        show(view(found, str(older), str(newer)))
    return found.verdict.exit_code


@report.command()
@click.argument("what", default="latest")
@option(
    "--base-report",
    type=click.Path(path_type=Path),
    help="Report of the base branch, as for `report compare`, to say what is new; left out if it does not exist.",
)
@click.option("--name", default="vllm-ci", show_default=True, help="Runs with different names have comments of their own.")
@click.option("--dry-run", is_flag=True, help="Only print the text of the comment.")
@config_option
def comment(*, what: str, base_report: Path | None, name: str, dry_run: bool, **_: Any) -> None:
    """Comment on the pull or merge request of this CI run: one comment, which later runs replace.

    WHAT is the folder of a run, by default the newest. Needs GitHub Actions or GitLab CI and a token in VLLM_CI_COMMENT_TOKEN
    (otherwise GITHUB_TOKEN or GITLAB_TOKEN). There is never a comment on a pull request from a fork.

    \b
    Examples:
      vllm-ci report comment
      vllm-ci report comment --base-report main-report --dry-run

    A comment that cannot be written is a warning: the exit code is 0, unless there is no report (2).
    """
    from vllm_ci.ci import comments
    from vllm_ci.cli.show import report_file

    found = report_file(what)
    if found is None:
        raise UsageError(f"there is no report in {what}", remedy="name the folder of a run")
    text = _comment(found, base_report)
    if dry_run:
        show(text)
        return
    try:
        address = comments.write(comments.thread(), text, name)
    except comments.NotPossible as error:
        show(f"vllm-ci: no comment was written: {error}", err=True)
    else:
        show(f"commented{f': {address}' if address else ''}")


def _comment(file: Path, base: Path | None) -> str:
    """The result of a run, and what is new against the base."""
    from vllm_ci.ci import current
    from vllm_ci.report import comparison_views, files, summary
    from vllm_ci.report.comparison import compare as run

    newer = files.read(file).report
    parts = [summary.markdown(newer)]
    if base is not None and base.exists():
        try:
            compared = run(_runs(base), [newer])
        except VllmCiError as error:
            parts.append(f"No comparison with the base: {code(str(error))}\n")
        else:
            parts.append(comparison_views.markdown(compared, "the base", "this commit"))
    url = current.run_url()
    return "\n".join([*parts, *([f"[Log and report of this run](<{quote(url, safe=_IN_URL)}>)\n"] if url else [])])


@report.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port; by default any free one.")
@config_option
@click.pass_context
def serve(context: click.Context, /, *, folder: Path | None, port: int, **_: Any) -> None:
    """Serve the reports in FOLDER (by default the report directory) on this machine, with an index of them, until Ctrl-C.

    Only this machine is answered (127.0.0.1). The index is made anew when there is a new report.

    \b
    Examples:
      vllm-ci report serve
      vllm-ci report serve collected --port 8080
    """
    from vllm_ci.cli.dashboard import collect
    from vllm_ci.report import dashboard_page
    from vllm_ci.report.serving import Reports

    place = folder
    if place is None:
        project = loaded(context)
        place = project.folder / project.config.report.directory

    made: dict[tuple[str, ...], str] = {}

    def index() -> str:
        names = tuple(sorted(path.parent.name for path in place.glob("*/report.json")))
        if names not in made:
            board = collect(context, place, ledger=False)
            made.clear()
            made[names] = dashboard_page.render(board, {run.name: f"{quote(run.name)}/report.html" for run in board.runs})
        return made[names]

    try:
        server = Reports(place, port, index)
    except OSError as error:
        raise UsageError(f"port {port} cannot be used: {error}", remedy="name another one with --port") from error
    with server:
        click.echo(server.url)
        server.serve_forever()


def _runs(path: Path) -> list[Report]:
    """The reports of a run, or of several runs of one image.

    Raises:
        UsageError: There is no report, or they are of different images.
    """
    from vllm_ci.report import files

    if path.is_file() or (path / "report.json").is_file():
        return [files.read(path).report]
    found = [each.report for each in files.read_all(path)]
    if not found:
        raise UsageError(f"there is no report in {path}", remedy="name the folder of a run, or a folder with several")
    subjects = {(each.commit.sha if each.commit else "", each.image.digest if each.image else "") for each in found}
    if len(subjects) > 1:
        raise UsageError(
            f"the reports in {path} are of {len(subjects)} different commits or images",
            why="runs of one version are compared with runs of another",
            remedy="name the folder of one run, or put the runs of one version into a folder of their own",
        )
    return found
