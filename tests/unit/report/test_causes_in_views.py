"""Every view shows causes: fifty cases that fail for one reason are one entry with its rule, request and response."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest

from vllm_ci.domain.report import Case, CaseStatus, Problem, Report, StageResult, Verdict, verdict_of
from vllm_ci.report import ctrf, document, folder, html, junit, redaction, schema

RULE = "OpenAI API reference, chat completion chunk: https://platform.openai.com/docs/api-reference/chat-streaming?a=1&b=2."
RECORDED = {"id": "no-done", "title": "a stream ends without <b>[DONE]</b> \x1b[31m", "rule": RULE, "severity": "high"}
EXCHANGE = {"request": 'POST /v1/chat/completions {"stream": true}', "response": "200\n<script>alert(1)</script>\x00"}
RECORDING = tuple(
    Case(
        name=f"streaming/test_a.py::test_{number}[chat]",
        status=CaseStatus.FAILED,
        message=f"case {number} <i>stopped</i>",
        details="Traceback",
        properties={"cause": RECORDED, "exchange": EXCHANGE, "ttft_ms": 1.5},
    )
    for number in range(50)
)
SAYING = tuple(
    Case(name=f"streaming/test_b.py::test_{number}", status=CaseStatus.ERRORED, message=f"ReadError: gone after {number} ms")
    for number in range(3)
)
OTHERS = (
    Case(name="streaming/test_c.py::test_unclear", status=CaseStatus.INCONCLUSIVE, message="the machine is busy"),
    Case(name="streaming/test_c.py::test_passes", status=CaseStatus.PASSED),
    *(Case(name=f"streaming/test_d.py::test_{n}", status=CaseStatus.SKIPPED, message="no tools") for n in range(4)),
)
CASES = RECORDING + SAYING + OTHERS
STREAMING = StageResult(name="streaming", verdict=Verdict.FAILED, seconds=1.0, cases=CASES, message=verdict_of(CASES)[1])
GONE = StageResult(name="security", verdict=Verdict.ERRORED, seconds=0.0, message="not run: the server was gone")
REPORT = Report(
    commit=None,
    image=None,
    engine="host",
    stages=(
        StageResult(name="streaming", verdict=Verdict.FAILED, seconds=1.0, cases=CASES, message=verdict_of(CASES)[1]),
        GONE,
    ),
    started_at="2026-11-21T00:00:00+00:00",
    seconds=2.0,
)
TITLE = "a stream ends without <b>[DONE]</b> \\x1b[31m"


def check(causes: list[dict[str, Any]]) -> None:
    """The four causes of the report."""
    assert [(cause["status"], cause["severity"], len(cause["cases"])) for cause in causes] == [
        ("failed", "high", 50),
        ("errored", "", 3),
        ("errored", "", 1),
        ("inconclusive", "", 1),
    ]
    assert (causes[0]["id"], causes[0]["title"], causes[0]["rule"]) == ("no-done", TITLE, RULE)
    assert causes[0]["cases"][0] == {"stage": "streaming", "case": "streaming/test_a.py::test_0[chat]"}
    assert causes[0]["request"] == EXCHANGE["request"]
    assert causes[1]["title"] == "ReadError: gone after … ms"
    assert causes[2]["cases"] == [{"stage": "security", "case": ""}]


def test_json_has_causes_and_reasons_of_skips() -> None:
    for found in (document.summary(REPORT, "/there"), document.to_json(REPORT)):
        check(found["causes"])
        assert found["skips"] == [{"reason": "no tools", "cases": 4}]


@pytest.mark.slow
def test_json_fits_its_schema() -> None:
    problem = Problem(step="server", summary="the server did not start")
    for report in (REPORT, replace(REPORT, stages=(), problem=problem)):
        jsonschema.validate(json.loads(json.dumps(document.summary(report, "/there"))), schema.of_summary())
        jsonschema.validate(json.loads(json.dumps(document.to_json(report))), schema.of_report())
    wrong = {**document.summary(REPORT, "/there"), "causes": [{"id": "x"}]}
    with pytest.raises(jsonschema.ValidationError, match="'title' is a required property"):
        jsonschema.validate(wrong, schema.of_summary())


@pytest.mark.parametrize(("name", "made"), [("report", schema.of_report), ("run", schema.of_summary)])
def test_the_schemas_are_up_to_date(name: str, made: Any) -> None:
    file = Path(schema.__file__).parents[1] / "schema" / f"{name}.schema.json"
    assert json.loads(file.read_text(encoding="utf-8")) == made(), "write them again: python -m vllm_ci.report.schema"


def test_a_report_of_an_earlier_version_is_read_and_gets_causes() -> None:
    stored = json.loads(json.dumps(document.to_json(REPORT)))
    old = {name: value for name, value in stored.items() if name not in ("causes", "skips")}
    assert document.from_json(old) == document.from_json(stored)
    check(document.to_json(document.from_json(old))["causes"])


def test_causes_in_a_file_are_not_believed() -> None:
    stored = json.loads(json.dumps(document.to_json(REPORT))) | {"causes": "nonsense"}
    check(document.to_json(document.from_json(stored))["causes"])


def test_junit_groups_by_cause_and_keeps_what_each_case_says() -> None:
    root = ET.fromstring(junit.from_report(REPORT))
    failures = root.findall(".//failure")
    assert {(each.get("type"), each.get("message")) for each in failures} == {("no-done", TITLE)}
    assert len(failures) == 50
    text = failures[7].text or ""
    for part in ("case 7 <i>stopped</i>", RULE, EXCHANGE["request"], "<script>alert(1)</script>", "Traceback"):
        assert part in text
    errors = [each.get("message") for each in root.findall(".//error")]
    assert errors == [*["ReadError: gone after … ms"] * 3, "inconclusive: the machine is busy", "not run: the server was gone"]
    first = {each.get("name"): each.get("value") for each in root.findall(".//testcase")[0].findall("properties/property")}
    assert first == {"cause": "no-done", "ttft_ms": "1.5"}
    assert [each.get("message") for each in root.findall(".//skipped")] == ["no tools"] * 4


def test_ctrf_has_the_cause_of_each_test_and_all_causes() -> None:
    results = ctrf.from_report(REPORT)["results"]
    check(results["summary"]["extra"]["causes"])
    first = results["tests"][0]
    assert first["extra"]["cause"] == {**RECORDED, "title": TITLE, "status": "failed"}
    assert first["message"] == "case 0 <i>stopped</i>"
    assert "extra" not in next(test for test in results["tests"] if test["status"] == "passed")
    assert results["tests"][-1]["extra"]["cause"]["title"] == "not run: the server was gone"


def test_a_case_of_several_causes_names_them_all() -> None:
    findings = [{"id": name, "severity": "high", "message": "is open"} for name in ("a", "b")]
    case = Case(
        name="x::y", status=CaseStatus.FAILED, message="[high] a: is open; [high] b: is open", properties={"findings": findings}
    )
    report = replace(REPORT, stages=(StageResult(name="security", verdict=Verdict.FAILED, seconds=1.0, cases=(case,)),))
    (test,) = ctrf.from_report(report)["results"]["tests"]
    assert (test["extra"]["cause"]["id"], test["extra"]["other_causes"]) == ("a", ["b"])
    properties = ET.fromstring(junit.from_report(report)).findall(".//testcase/properties/property")
    assert ("cause", "a, b") in [(each.get("name"), each.get("value")) for each in properties]


class Page(HTMLParser):
    """What a page has: ids, targets of links, opened elements, text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.opened: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known: Mapping[str, str | None] = dict(attrs)
        self.tags.append(tag)
        self.ids += [name for name in (known.get("id"),) if name]
        self.links += [name for name in (known.get("href"),) if name]
        self.opened += [known.get("id") or ""] if "open" in known else []

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.slow
def test_the_page_shows_causes_first_and_leads_to_their_cases() -> None:
    page = Page(html.from_report(REPORT))
    text = page.text.partition("50 of 59 cases failed, 3 errored, 1 inconclusive, for 4 reasons")[2].partition("Machine")[2]
    order = ["What is wrong", TITLE, "Rule", "Repeat just this", "Stages", "Skipped"]
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)
    assert "cause-no-done" in page.ids
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert "https://platform.openai.com/docs/api-reference/chat-streaming?a=1&b=2" in page.links
    assert page.opened == ["cause-no-done"]
    assert text.count("case 7 <i>stopped</i>") == 1


def test_nothing_that_a_server_sends_becomes_part_of_the_page() -> None:
    page = html.from_report(REPORT)
    assert Page(page).tags.count("script") == 1
    assert not {"b", "i"} & set(Page(page).tags)
    assert not {"\x1b", "\x00"} & set(page)


@pytest.mark.slow
@pytest.mark.needs_browser
def test_a_link_to_a_case_unfolds_it(tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("needs Chromium")
    (tmp_path / "report.html").write_text(html.from_report(REPORT), encoding="utf-8")
    place = next(link for link in Page(html.from_report(REPORT)).links if "test_7[chat]" in link)
    options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom")
    address = f"file://{tmp_path}/report.html{place}"
    done = subprocess.run([browser, *options, address], capture_output=True, text=True, check=True, timeout=60)
    row = done.stdout.partition(f'id="{place[1:]}"')[2]
    assert row.partition(">")[0].strip().startswith("open")


def test_a_page_without_failures_has_no_causes() -> None:
    passed = replace(REPORT, stages=(StageResult(name="unit", verdict=Verdict.PASSED, seconds=1.0, cases=OTHERS[1:2]),))
    assert "What is wrong" not in html.from_report(passed)


def test_few_failures_are_unfolded_below_their_cause() -> None:
    one = replace(REPORT, stages=(StageResult(name="streaming", verdict=Verdict.FAILED, seconds=1.0, cases=RECORDING[:1]),))
    opened = ["cause-no-done", "streaming/test_a.py::test_0[chat]"]
    assert Page(html.from_report(one)).opened == opened


def test_a_stage_that_the_problem_explains_is_not_a_cause() -> None:
    problem = Problem(step="server", summary="the server did not start")
    stage = StageResult(name="streaming", verdict=Verdict.ERRORED, seconds=0.0, message=problem.not_run)
    report = replace(REPORT, stages=(stage,), problem=problem)
    assert document.summary(report, "/there")["causes"] == []
    assert "What is wrong" not in html.from_report(report)


def test_secrets_are_removed_from_causes(tmp_path: Path) -> None:
    secret = "hunter2hunter2"
    cause = {**RECORDED, "id": f"x-{secret}", "title": f"title {secret}"}
    exchange = {"request": f"Authorization: Bearer {secret}", "response": f"401 {secret}"}
    case = replace(RECORDING[0], properties={"cause": cause, "exchange": exchange})
    stage = StageResult(name="streaming", verdict=Verdict.FAILED, seconds=1.0, cases=(case,))
    written = folder.write(tmp_path, redaction.redacted(replace(REPORT, stages=(stage,)), [secret]), {}, secrets=[secret])
    texts = {path.name: path.read_text(encoding="utf-8") for path in written.rglob("*") if path.is_file()}
    assert len(texts) >= 4
    assert not [name for name, text in texts.items() if secret in text]
    assert "title ***" in texts["report.html"]
