from __future__ import annotations

from typing import Any

import pytest

from unit.stages.memory import MemoryDirectory, case, crashed, left
from vllm_ci.domain.program import Outcome
from vllm_ci.domain.report import CaseStatus, StageResult, Verdict
from vllm_ci.stages import reading, reviving
from vllm_ci.suites import ends

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def result_of(outcome: Outcome, *, promised: int = 1) -> StageResult:
    return reading.combine("s", [outcome], [await reading.read(outcome, name="s", promised=promised)])


async def test_cases_that_pass_pass() -> None:
    result = await result_of(left([case("a"), case("b", "skipped")], server={"version": "0.32.0"}))
    assert result.verdict is Verdict.PASSED
    assert result.message == ""
    assert [each.status for each in result.cases] == [CaseStatus.PASSED, CaseStatus.SKIPPED]
    assert result.facts == {"version": "0.32.0"}
    assert result.seconds == 2.0


@pytest.mark.parametrize(
    ("statuses", "exit_code", "verdict"),
    [
        (["passed", "failed"], 1, Verdict.FAILED),
        (["failed", "errored", "inconclusive"], 1, Verdict.FAILED),
        (["passed", "errored"], 1, Verdict.ERRORED),
        (["passed", "inconclusive"], 1, Verdict.INCONCLUSIVE),
        (["skipped", "skipped"], 0, Verdict.ERRORED),
    ],
)
async def test_the_worst_case_decides(statuses: list[str], exit_code: int, verdict: Verdict) -> None:
    result = await result_of(left([case(f"c{n}", status) for n, status in enumerate(statuses)], exit_code=exit_code))
    assert result.verdict is verdict
    assert result.message


async def test_fewer_cases_than_promised_is_an_error() -> None:
    result = await result_of(left([case("a")]), promised=2)
    assert result.verdict is Verdict.ERRORED
    assert "1 cases, but at least 2 are required" in result.message


async def test_a_run_that_stopped_early_is_an_error() -> None:
    result = await result_of(left([case("a")], collected=3))
    assert result.verdict is Verdict.ERRORED
    assert "1 of 3" in result.message


async def test_an_exit_code_that_no_case_explains_is_an_error() -> None:
    assert (await result_of(left([case("a")], exit_code=1))).verdict is Verdict.ERRORED
    assert (await result_of(left([case("a")], exit_code=3))).verdict is Verdict.ERRORED


async def test_a_program_that_was_killed_says_which_case_was_running() -> None:
    lines: list[dict[str, Any]] = [{"running": "a"}, {"case": case("a")}, {"running": "b"}]
    result = await result_of(crashed(139, lines=lines))
    assert result.verdict is Verdict.ERRORED
    assert "killed by signal 11" in result.message
    assert "Segmentation fault" in result.message
    assert [(each.name, each.status) for each in result.cases] == [("a", CaseStatus.PASSED), ("b", CaseStatus.ERRORED)]


async def test_a_program_that_was_stopped_says_which_cases_had_not_begun() -> None:
    lines: list[dict[str, Any]] = [{"collected": ["a", "b", "c"]}, {"running": "a"}, {"case": case("a")}, {"running": "b"}]
    cases = {each.name: each for each in (await result_of(crashed(143, lines=lines, stopped=True))).cases}
    assert {name: reviving.cause_of(each) for name, each in cases.items()} == {"a": "", "b": ends.CUT, "c": ends.NOT_BEGUN}
    assert cases["c"].message == "had not begun when the program was stopped after 2 s"
    assert cases["c"].status is CaseStatus.ERRORED
    assert len((await result_of(crashed(143, lines=lines, timed_out=True))).cases) == 2


async def test_a_half_written_last_line_does_no_harm() -> None:
    outcome = Outcome(exit_code=137, seconds=1, output=MemoryDirectory({"cases.jsonl": b'{"running": "a"}\n{"ca'}), log="")
    result = await result_of(outcome)
    assert [(each.name, each.status) for each in result.cases] == [("a", CaseStatus.ERRORED)]


async def test_a_program_whose_time_ran_out_is_an_error_even_with_a_report() -> None:
    assert "timed out" in (await result_of(crashed(143, timed_out=True))).message
    assert (await result_of(left([case("a")], timed_out=True))).verdict is Verdict.ERRORED


async def test_no_report_and_no_trace_is_an_error_with_the_end_of_the_log() -> None:
    result = await result_of(crashed(2, log="\n".join(["early", *["line"] * 30, "ImportError: x"])))
    assert result.verdict is Verdict.ERRORED
    assert "ImportError: x" in result.message
    assert "early" not in result.message
    assert result.cases == ()


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"cases": [{"name": "a"}], "session": {}, "collected": 1}', b"null"])
async def test_a_report_that_cannot_be_read_is_an_error(text: bytes) -> None:
    outcome = Outcome(exit_code=0, seconds=1, output=MemoryDirectory({"cases.json": text}), log="")
    result = await result_of(outcome)
    assert result.verdict is Verdict.ERRORED
    assert "wrote an invalid report" in result.message


async def test_nothing_to_run_is_an_error() -> None:
    result = reading.combine("s", [], [], empty="no tests were named")
    assert result.verdict is Verdict.ERRORED
    assert result.message == "no tests were named"


async def test_a_failure_in_one_program_is_not_hidden_by_trouble_in_another() -> None:
    outcomes = [left([case("a", "failed")], exit_code=1), crashed(137)]
    readings = [await reading.read(outcome, name="s", promised=1) for outcome in outcomes]
    result = reading.combine("s", outcomes, readings)
    assert result.verdict is Verdict.FAILED
    assert "signal 9" in result.message
    assert "1 of 1 cases failed" in result.message


async def test_figures_of_the_cases_become_distributions_of_the_stage() -> None:
    cases = [case("a", ttft_ms=1.0, model="m", ok=True), case("b", ttft_ms=3.0, gaps_ms=[1, 2, 3], chunks=4)]
    result = await result_of(left(cases))
    assert result.metrics == {
        "gaps_ms": {"count": 3, "min": 1, "p50": 2, "p90": 3, "p99": 3, "max": 3},
        "ttft_ms": {"count": 2, "min": 1.0, "p50": 1.0, "p90": 3.0, "p99": 3.0, "max": 3.0},
    }


async def test_figures_that_the_suite_noted_itself_come_first() -> None:
    cases = [case("a", ttft_ms=1.0), case("b", ttft_ms=3.0)]
    result = await result_of(left(cases, notes={"s": {"ttft_ms_p50": 2.0}}))
    assert result.metrics == {"ttft_ms_p50": 2.0}


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\u2029", "\x1c"])
async def test_no_character_in_what_a_case_says_hides_the_case_of_a_program_that_was_killed(character: str) -> None:
    said = {**case("a", "failed"), "message": f"one{character}two"}
    result = await result_of(crashed(139, lines=[{"running": "a"}, {"case": said}, {"running": "b"}]))
    assert [(each.name, each.status) for each in result.cases] == [("a", CaseStatus.FAILED), ("b", CaseStatus.ERRORED)]
