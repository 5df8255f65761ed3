"""The dashboard: what it reads, and the files that the command writes; flaky cases; what is left out is said."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from registries import project
from unit.report.boards import board
from unit.report.pages import report
from vllm_ci.cli import root
from vllm_ci.domain import plain_json
from vllm_ci.domain.errors import ConfigError, UsageError
from vllm_ci.domain.report import CaseStatus, Problem, Report, Verdict
from vllm_ci.report import dashboard, dashboard_page, document, files, folder, html


def stored(parent: Path, count: int = 3) -> Path:
    for number in range(count):
        made = replace(report(5 + number), started_at=f"2026-11-2{number}T00:00:00+00:00")
        folder.write(parent, made, {"server": "INFO fine"})
    return parent


def passing(made: Report) -> Report:
    cases = tuple(replace(case, status=CaseStatus.PASSED, message="") for case in made.stages[1].cases)
    return replace(made, stages=(made.stages[0], replace(made.stages[1], cases=cases, verdict=Verdict.PASSED, message="")))


@pytest.mark.slow
def test_runs_are_read_newest_first_and_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    stored(tmp_path)
    (tmp_path / "20261101-000000-broken").mkdir()
    (tmp_path / "20261101-000000-broken" / "report.json").write_text("{}")
    runs, left_out = dashboard.read(tmp_path, 2)
    assert [run.started_at[:10] for run in runs] == ["2026-11-22", "2026-11-21"]
    assert left_out[0].startswith("20261101-000000-broken: ")
    assert left_out[1] == "1 older runs"
    assert runs[0].stages["streaming"] == (Verdict.FAILED, 1, 7)
    assert runs[0].figures["image_bytes"] == 548_084_000


@pytest.mark.parametrize(
    ("place", "odd", "left_out"),
    [
        (("seconds",), math.inf, True),
        (("seconds",), 1e308, True),
        (("timings", "build"), math.nan, True),
        (("stages", 1, "cases", 0, "seconds"), math.inf, True),
        (("layers", 0, "size_bytes"), 10**400, True),
        (("stages", 1, "metrics", "ttft_ms_p50"), math.inf, False),
        (("stages", 1, "metrics", "ttft_ms_p50"), 10**400, False),
        (("stages", 1, "metrics", "ttft_ms_p50"), 1e308, False),
    ],
    ids=str,
)
def test_one_report_with_a_figure_that_nothing_can_have_does_not_take_the_page_from_the_others(
    place: tuple[str | int, ...], odd: float, left_out: bool, tmp_path: Path
) -> None:
    stored(tmp_path / "runs")
    file = min((tmp_path / "runs").glob("2*")) / "report.json"
    content = inner = json.loads(file.read_text())
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = odd
    file.write_text(json.dumps(content))
    runs, notes = dashboard.read(tmp_path / "runs", 10)
    assert [note for note in notes if "is not valid" in note] == notes
    assert (len(runs), len(notes)) == ((2, 1) if left_out else (3, 0))
    assert "2026-11-22" in dashboard_page.render(dashboard.Dashboard(title="x", runs=runs, notes=notes), {})
    compared = CliRunner().invoke(root, ["report", "compare", str(file), str(file)])
    assert isinstance(compared.exception, ConfigError) == left_out, compared.output


def test_a_folder_whose_name_is_no_utf_8_is_left_out(tmp_path: Path) -> None:
    stored(tmp_path, 1)
    shutil.copytree(tmp_path / "latest", os.fsdecode(os.fsencode(tmp_path) + b"/99991231-\xff"))
    runs, notes = dashboard.read(tmp_path, 10)
    assert (len(runs), len(notes)) == (1, 1)
    page = dashboard_page.write(dashboard.Dashboard(title="x", runs=runs, notes=notes), tmp_path / "site", pages=9)
    assert "99991231-\\udcff: " in page.read_text()


@pytest.mark.slow
def test_a_case_that_fails_in_one_run_of_an_image_and_passes_in_another_is_flaky(tmp_path: Path) -> None:
    failing = report(5)
    folder.write(tmp_path, failing, {})
    for _ in range(2):
        folder.write(tmp_path, passing(failing), {})
    other = replace(failing, image=None, commit=None)
    folder.write(tmp_path, other, {})
    (found,) = dashboard.flaky(dashboard.read(tmp_path, 10)[0])
    assert (found.stage, found.failed, found.runs) == ("streaming", 1, 3)
    assert "number_2" in found.name


def test_failures_of_different_commits_are_not_flaky(tmp_path: Path) -> None:
    failing = report(5)
    assert failing.commit
    folder.write(tmp_path, replace(failing, image=None), {})
    folder.write(tmp_path, replace(passing(failing), image=None, commit=replace(failing.commit, sha="b" * 40)), {})
    folder.write(tmp_path, replace(passing(failing), image=None, commit=replace(failing.commit, dirty=True)), {})
    assert dashboard.flaky(dashboard.read(tmp_path, 10)[0]) == []


@pytest.mark.slow
@pytest.mark.parametrize(("count", "most"), [(0, 20_000), (1, 20_000), (400, 600_000)])
def test_the_page_stays_small(count: int, most: int) -> None:
    assert len(dashboard_page.render(board(count), {})) < most


@pytest.mark.slow
def test_other_files_in_the_folder_stay_and_those_of_somebody_else_are_not_overwritten(tmp_path: Path) -> None:
    runs, _ = dashboard.read(stored(tmp_path / "runs"), 10)
    made = dashboard.Dashboard(title="serving", runs=runs)
    site = tmp_path / "site"
    site.mkdir()
    (site / "CNAME").write_text("ci.example.com")
    page = dashboard_page.write(made, site, pages=2)
    assert sorted(each.name for each in site.iterdir()) == ["CNAME", "index.html", "reports"]
    copied = sorted(each.name for each in (site / "reports").iterdir())
    assert copied == sorted(run.name for run in runs[:2])
    assert (site / "reports" / copied[0] / "logs" / "server.log").read_text() == "INFO fine"
    assert f'href="reports/{copied[0]}/report.html"' in page.read_text()
    dashboard_page.write(made, site, pages=1)
    assert [each.name for each in (site / "reports").iterdir()] == [runs[0].name]
    page.write_text("<h1>my own page</h1>")
    with pytest.raises(UsageError, match="not of a dashboard"):
        dashboard_page.write(made, site, pages=2)
    assert page.read_text() == "<h1>my own page</h1>"


def test_links_in_a_report_s_folder_lead_nothing_into_the_site(tmp_path: Path) -> None:
    runs, _ = dashboard.read(stored(tmp_path / "runs", 1), 10)
    (tmp_path / "secret").write_text("s3cret")
    (runs[0].folder / "logs" / "key.log").symlink_to(tmp_path / "secret")
    dashboard_page.write(dashboard.Dashboard(title="x", runs=runs), tmp_path / "site", pages=1)
    assert not list((tmp_path / "site").rglob("key.log"))


def test_html_of_somebody_else_in_a_report_s_folder_is_not_published(tmp_path: Path) -> None:
    """Artifacts of a pull request may hold anything, and a site's pages act with its rights."""
    runs, _ = dashboard.read(stored(tmp_path / "runs", 2), 10)
    place, linked = (run.folder for run in runs)
    (place / "report.html").write_text("<script>acted()</script>")
    (place / "logs" / "page.html").write_text("<script>acted()</script>")
    (place / "logs" / "server.log").write_text("<script>acted()</script>\nERROR it is <b>over</b>\n")
    shutil.rmtree(linked / "logs")
    (linked / "logs").symlink_to(place / "logs")
    made = replace(files.read(place).report, problem=Problem(step="server", summary="gone", log="javascript:acted()"))
    (place / "report.json").write_text(plain_json.dumps(document.to_json(made)))
    dashboard_page.write(dashboard.Dashboard(title="x", runs=runs), tmp_path / "site", pages=2)
    written = {str(path.relative_to(tmp_path / "site" / "reports")) for path in (tmp_path / "site" / "reports").rglob("*.*")}
    assert {path for path in written if path.endswith(".html")} == {f"{run.name}/report.html" for run in runs}
    assert [path for path in written if path.startswith(f"{linked.name}/logs/")] == []
    page = (tmp_path / "site" / "reports" / place.name / "report.html").read_text()
    assert "<script>acted" not in page
    assert "Content-Security-Policy" in page
    assert 'href="javascript' not in page
    assert page == html.from_report(files.read(place).report, {"server": (place / "logs" / "server.log").read_text()})


def test_a_report_whose_page_cannot_be_made_is_named_and_the_others_are_there(tmp_path: Path) -> None:
    runs, _ = dashboard.read(stored(tmp_path / "runs", 2), 10)
    file = runs[0].folder / "report.json"
    content = json.loads(file.read_text())
    content["stages"][1]["metrics"]["comparison"] = {"estimates": {"ttft_ms": 5}}
    file.write_text(json.dumps(content))
    page = dashboard_page.write(dashboard.Dashboard(title="x", runs=runs), tmp_path / "site", pages=2).read_text()
    assert f"page of {runs[0].name}: " in page
    assert [each.name for each in (tmp_path / "site" / "reports").iterdir()] == [runs[1].name]


@pytest.mark.slow
def test_the_command_shows_channels_releases_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))
    for name in ("CI", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL"):
        monkeypatch.delenv(name, raising=False)
    place = tmp_path / "chat"
    project.make_project(place)
    project.build_and_test(place)
    monkeypatch.chdir(place)
    call = CliRunner().invoke
    assert call(root, ["publish", "--channel", "staging"]).exit_code == 0
    done = call(root, ["dashboard", "--output", "../site", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["runs"], found["releases"], found["left_out"]) == (1, 1, [])
    page = (tmp_path / "site" / "index.html").read_text()
    assert '<span class="tag">staging</span>' in page
    assert "Moves of the channels" in page
    refused = call(root, ["dashboard", "--output", str(place / "vllm-ci.yaml")])
    assert refused.exit_code == 2
    shutil.rmtree(place / ".vllm-ci")
    empty = call(root, ["dashboard", "--output", "../empty"])
    assert empty.exit_code == 0, empty.output
    assert "There are no reports yet" in (tmp_path / "empty" / "index.html").read_text()


@pytest.mark.slow
def test_without_a_configuration_a_folder_of_reports_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stored(tmp_path / "collected", 1)
    (tmp_path / "measured").mkdir()
    (tmp_path / "measured" / "broken.json").write_text("{")
    arguments = ["dashboard", "--reports", "collected", "--no-ledger", "--measurements", "measured", "--output", "site"]
    done = CliRunner().invoke(root, arguments)
    assert done.exit_code == 0, done.output
    assert "left out: broken.json: cannot be read" in done.stderr
    missing = CliRunner().invoke(root, ["dashboard", "--reports", "collected", "--output", "other"], standalone_mode=False)
    assert missing.exit_code != 0
    assert not (tmp_path / "other").exists()
