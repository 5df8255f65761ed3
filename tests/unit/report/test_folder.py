from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from unit.report.pages import report as page_report
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import ConfigError, ErroredError
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.report import Case, CaseStatus, Problem, Report, StageResult, Verdict
from vllm_ci.report import document, files, folder, html

CASES = (
    Case(name="a::passes", status=CaseStatus.PASSED, seconds=0.25, properties={"ttft_ms": 12.5, "model": "tiny"}),
    Case(name="a::fails", status=CaseStatus.FAILED, message="<b>not</b> equal", details="assert 1 == 2"),
    Case(name="a::skips", status=CaseStatus.SKIPPED, message="no embeddings"),
)
REPORT = Report(
    commit=Commit(sha="a" * 40, ref="main", committed_at=1),
    image=ImageRef(repository="name", digest="sha256:" + "b" * 64, tags=("a" * 40,)),
    engine="host",
    hardware={"cores": 4},
    server={"server": {"version": "0.32.0", "models": ["tiny"]}},
    stages=(StageResult(name="streaming", verdict=Verdict.FAILED, seconds=1.5, cases=CASES, log="key=hunter2 done\n"),),
    started_at="2026-11-21T10:15:00+00:00",
    seconds=125.0,
    timings={"build": 0.4, "server": 20.0},
)


def test_a_report_survives_json() -> None:
    assert document.from_json(json.loads(json.dumps(document.to_json(REPORT)))) == REPORT


def test_a_report_with_an_edited_verdict_is_refused() -> None:
    data = document.to_json(REPORT) | {"verdict": "passed"}
    with pytest.raises(ConfigError, match="its stages give failed"):
        document.from_json(data)


def test_a_report_of_another_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="format"):
        document.from_json({"format": "something/else"})


def test_the_summary_is_what_other_programs_rely_on() -> None:
    found = document.summary(REPORT, "/there")
    assert set(found) == {"verdict", "commit", "image", "model", "engine", "seconds", "report_dir", "causes", "skips", "stages"}
    assert found["commit"] == {"sha": "a" * 40, "dirty": False}
    (stage,) = found["stages"]
    assert {"passed": 1, "failed": 1, "errored": 0, "skipped": 1}.items() <= stage["cases"].items()
    assert stage["failures"] == [{"case": "a::fails", "message": "<b>not</b> equal"}]


def test_a_stage_that_errored_as_a_whole_tells_why_in_the_summary() -> None:
    broken = StageResult(name="unit", verdict=Verdict.ERRORED, seconds=0.0, message="the server died")
    found = document.summary(replace(REPORT, stages=(broken,), commit=None, image=None), "/there")
    assert found["commit"] is None
    assert found["image"] is None
    assert found["stages"][0]["failures"] == [{"case": "", "message": "the server died"}]


def test_the_folder_holds_every_view_and_latest_points_to_it(tmp_path: Path) -> None:
    parent = tmp_path / ".vllm-ci" / "runs"
    written = folder.write(parent, REPORT, {"server": "ready\n"})
    names = {str(path.relative_to(written)) for path in written.rglob("*") if path.is_file()}
    assert names == {
        "report.json",
        "junit.xml",
        "ctrf.json",
        "report.html",
        "summary.md",
        "logs/streaming.log",
        "logs/server.log",
    }
    assert (parent / "latest").resolve() == written
    assert written.name == f"20261121-101500-{'a' * 12}"
    assert (tmp_path / ".vllm-ci" / ".gitignore").read_text() == "*\n"


def test_two_runs_in_one_second_get_a_folder_each(tmp_path: Path) -> None:
    one, two = folder.write(tmp_path, REPORT, {}), folder.write(tmp_path, REPORT, {})
    assert one != two
    assert (tmp_path / "latest").resolve() == two
    assert not list(tmp_path.glob(".part-*"))


def test_secrets_stand_in_no_file(tmp_path: Path) -> None:
    awkward = 'pass"word\\with\nlines'
    report = replace(REPORT, server={"note": awkward})
    written = folder.write(
        tmp_path, report, {"server": f"authorization: hunter2 and {awkward}"}, secrets=("hunter2", awkward, "")
    )
    for path in written.rglob("*"):
        if path.is_file():
            assert "hunter2" not in path.read_text(), path
            assert "with\\nlines" not in path.read_text(), path
    assert json.loads((written / "report.json").read_text())["server"]["note"] == "***"


def test_a_secret_in_a_line_of_a_log_is_not_on_the_page_in_other_characters_or_in_part(tmp_path: Path) -> None:
    awkward, token = 'p&ss<w>ord"1', "hf_" + "abcdefgh" * 8
    log = f"ERROR cannot log in with {awkward}\nERROR {'x' * 340} {token}\n"
    written = folder.write(tmp_path, REPORT, {"server": log}, secrets=(awkward, token))
    page = (written / "report.html").read_text()
    assert "ERROR cannot log in with ***" in page
    for part in ("p&amp;ss", "ord&#34;1", "hf_abcdefgh"):
        assert part not in page


@pytest.mark.parametrize("secret", ["test", "1", "key", "none", "name", "a"])
def test_a_secret_that_is_an_ordinary_word_leaves_every_file_readable(secret: str, tmp_path: Path) -> None:
    """A key called `test` is usual for a server on one's own machine."""
    made = replace(page_report(9), server={"note": f"it is <{secret}>"})
    written = folder.write(tmp_path, made, {"server": f"the key is {secret}"}, secrets=[secret])
    read = files.read(written).report
    assert read.server == {"note": "it is <***>"}
    assert (read.verdict, read.image, read.layers) == (made.verdict, made.image, made.layers)
    assert len(ET.fromstring((written / "junit.xml").read_text()).findall("testsuite/testcase")) == 10
    assert len(json.loads((written / "ctrf.json").read_text())["results"]["tests"]) == 10
    page = (written / "report.html").read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in page, "its policy allows its own script"
    assert secret not in (written / "logs" / "server.log").read_text()


def test_a_folder_that_cannot_be_written_is_errored_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ErroredError, match="--report-dir"):
        folder.write(tmp_path / "file" / "runs", REPORT, {})


def test_the_page_shows_everything_and_trusts_nothing() -> None:
    page = html.from_report(REPORT)
    for text in (
        "a" * 40,
        "sha256:" + "b" * 64,
        "a::fails",
        "assert 1 == 2",
        "no embeddings",
        "ttft_ms",
        "0.32.0",
        "2 min 5 s",
    ):
        assert text in page, text
    assert "<b>not</b>" not in page
    assert "&lt;b&gt;not&lt;/b&gt;" in page
    assert "http://" not in page.replace("http-equiv", "").replace("--url http://127.0.0.1:8000", "")
    assert "https://" not in page


def test_the_page_warns_that_a_dirty_or_double_report_cannot_be_released() -> None:
    dirty = replace(REPORT, commit=Commit(sha="a" * 40, dirty=True), double=True)
    page = html.from_report(dirty)
    assert "but not published" in page
    assert "test double" in page


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123, "12 ms"), (0.9999, "1.0 s"), (3.44, "3.4 s"), (99.97, "1 min 39 s"), (125.0, "2 min 5 s"), (math.nan, "unknown")],
)
def test_times_are_written_for_people(value: float, text: str) -> None:
    assert html.seconds(value) == text


def test_a_machine_that_is_not_known_is_said_to_be_unknown() -> None:
    assert "unknown: the server was given by its URL" in html.from_report(replace(REPORT, hardware={}))
    assert "unknown: the server was given by its URL" not in html.from_report(REPORT)


def test_what_a_problem_says_is_shown_as_text_and_code_and_never_trusted() -> None:
    problem = Problem(step="server", summary="no <b>", cause="<script>x</script>", explanation="`<i>`", change="set `a` to 1")
    page = html.from_report(replace(REPORT, problem=problem))
    assert "<script>x" not in page
    assert "<code>&lt;i&gt;</code>" in page
    assert "set <code>a</code> to 1" in page


def test_nothing_that_a_problem_or_a_rule_says_is_invisible_or_turns_the_text_around() -> None:
    odd = "\x1b[31m\u202e\u200b"
    said = dict.fromkeys(("summary", "cause", "explanation", "change"), f"a `{odd}` {odd}")
    case = Case(
        name="a::b", status=CaseStatus.FAILED, properties={"cause": {"id": odd, "title": odd, "rule": odd}}, message=odd
    )
    stage = StageResult(name="streaming", verdict=Verdict.FAILED, seconds=1, cases=(case,))
    made = replace(REPORT, problem=Problem(step="server", log=f"logs/{odd}.log", **said), stages=(stage,))
    page = html.from_report(made)
    assert not re.search("[\x1b\u202e\u200b]", page)
    assert page.count("\\u202e") >= 9


def test_a_report_with_a_problem_survives_json_and_is_never_passed() -> None:
    passed = StageResult(name="unit", verdict=Verdict.PASSED, seconds=1.0)
    report = replace(REPORT, stages=(passed,), problem=Problem(step="interrupted", summary="interrupted by SIGTERM"))
    assert report.verdict is Verdict.ERRORED
    assert document.from_json(json.loads(json.dumps(document.to_json(report)))) == report
