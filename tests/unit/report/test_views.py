from __future__ import annotations

from xml.etree import ElementTree as ET

from unit.report.pages import hostile
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.report import Case, CaseStatus, Report, StageResult, Verdict
from vllm_ci.report import ctrf, junit

STATUSES = (CaseStatus.PASSED, CaseStatus.FAILED, CaseStatus.ERRORED, CaseStatus.SKIPPED, CaseStatus.INCONCLUSIVE)
CASES = tuple(
    Case(
        name=f"integration/test_a.py::test_{status}",
        status=status,
        seconds=0.25,
        message="why\x00",
        properties={"ttft_ms": [1, 2]},
    )
    for status in STATUSES
)
REPORT = Report(
    commit=Commit(sha="a" * 40, ref="main"),
    image=ImageRef(repository="x", digest="sha256:" + "b" * 64),
    engine="host",
    stages=(
        StageResult(name="integration", verdict=Verdict.FAILED, seconds=1.5, cases=CASES),
        StageResult(name="streaming", verdict=Verdict.ERRORED, seconds=0.0, message="was killed by signal 9"),
    ),
    started_at="2026-11-21T00:00:00+00:00",
    seconds=2.0,
)


def test_ctrf_says_what_the_specification_asks_for() -> None:
    document = ctrf.from_report(REPORT)
    assert document["reportFormat"] == "CTRF"
    summary = document["results"]["summary"]
    assert len(summary.pop("extra")["causes"]) == 3
    assert summary == {
        "tests": 6,
        "passed": 1,
        "failed": 3,
        "skipped": 1,
        "other": 1,
        "pending": 0,
        "suites": 2,
        "start": 1795219200000,
        "stop": 1795219202000,
    }
    assert [test["rawStatus"] for test in document["results"]["tests"]] == [*map(str, STATUSES), "errored"]
    assert document["results"]["tests"][0]["duration"] == 250
    assert document["results"]["environment"]["commit"] == "a" * 40
    assert document["results"]["environment"]["extra"]["image_digest"] == "sha256:" + "b" * 64


def test_junit_counts_and_carries_commit_and_digest_in_every_suite() -> None:
    root = ET.fromstring(junit.from_report(REPORT))
    first, second = root.findall("testsuite")
    counts = {name: first.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "5", "failures": "1", "errors": "2", "skipped": "1"}
    assert second.get("errors") == "1"
    for suite in (first, second):
        properties = {each.get("name"): each.get("value") for each in suite.findall("properties/property")}
        assert properties["commit"] == "a" * 40
        assert properties["image_digest"] == "sha256:" + "b" * 64
    case = first.findall("testcase")[0]
    assert case.get("classname") == "integration.test_a"
    assert case.get("name") == "test_passed"
    assert [(each.get("name"), each.get("value")) for each in case.findall("properties/property")] == [("ttft_ms", "[1, 2]")]


def test_a_stage_that_could_not_be_judged_is_seen_by_readers_of_either_form() -> None:
    assert ctrf.from_report(REPORT)["results"]["tests"][-1]["message"] == "was killed by signal 9"
    error = ET.fromstring(junit.from_report(REPORT)).findall("testsuite")[1].find("testcase/error")
    assert error is not None
    assert error.get("message") == "was killed by signal 9"


def test_junit_is_xml_whatever_names_and_texts_hold() -> None:
    odd = "\x1b[31mred\x00\ufffe\ud800"
    case = Case(name=odd, status=CaseStatus.FAILED, message=odd, details=odd, properties={odd: odd, "list": [odd]})
    made = Report(
        commit=None,
        image=None,
        engine=odd,
        stages=(StageResult(name=odd, verdict=Verdict.FAILED, seconds=1, cases=(case,), message=odd),),
        started_at="2026-11-21T00:00:00+00:00",
    )
    for report in (made, hostile()):
        root = ET.fromstring(junit.from_report(report).encode())
        assert len(root.findall("testsuite")) == len(report.stages)
