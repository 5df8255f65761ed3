"""The end of a run on the terminal: with any number of failing cases, the screen says what is wrong."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from vllm_ci.cli import progress
from vllm_ci.domain.report import Case, CaseStatus, Report, StageResult, Verdict, verdict_of

RULE = "OpenAI API reference, chat completion chunk: https://platform.openai.com/docs/api-reference/chat-streaming"
EXCHANGE = {"request": 'POST /v1/chat/completions {"stream": true}', "response": '500 {"error": "\x1b[31mboom\n' + "x" * 5000}
FOLDER = "/home/user/project/.vllm-ci/runs/20261126-101500-url"


def failing(cases: int, causes: int) -> list[Case]:
    made = []
    for number in range(cases):
        title = f"Defect {number % causes} makes the answer wrong, which is too long for one line of a small terminal 日本語"
        properties = {
            "cause": {"id": f"defect-{number % causes}", "title": title, "rule": RULE, "severity": "high"},
            "exchange": EXCHANGE,
        }
        name = f"streaming/test_a.py::test_a_behaviour_with_a_rather_long_name_as_all_of_ours_have_{number}[chat]"
        made.append(Case(name=name, status=CaseStatus.FAILED, message="no", properties=properties))
    return made


def skipped(count: int, reasons: int) -> list[Case]:
    return [
        Case(
            name=f"streaming/test_b.py::test_{n}",
            status=CaseStatus.SKIPPED,
            message=f"the server lacks {'abcdefgh'[n % reasons]}",
        )
        for n in range(count)
    ]


def stage(cases: list[Case], name: str = "streaming", message: str = "") -> StageResult:
    verdict, counted = verdict_of(cases)
    return StageResult(name=name, verdict=verdict, seconds=1.0, cases=tuple(cases), message=message or counted)


def screen(*stages: StageResult, width: int = 80, height: int = 24, terminal: bool = True) -> str:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=width, height=height, color_system=None, soft_wrap=True)
    progress.close(console, Report(commit=None, image=None, engine="host", stages=stages), FOLDER)
    return output.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(80, 24), (132, 40), (132, 24), (80, 60)])
@pytest.mark.parametrize(("cases", "causes"), [(1, 1), (50, 1), (50, 3), (400, 40), (400, 400)])
def test_the_end_of_a_run_fits_on_the_screen(cases: int, causes: int, width: int, height: int) -> None:
    text = screen(
        stage(failing(cases, causes) + skipped(40, 8)), stage(skipped(1, 1) * 3, "integration"), width=width, height=height
    )
    lines = text.splitlines()
    assert len(lines) < height
    assert max(map(cell_len, lines)) <= width
    assert f"{cases} of {cases + 43} cases failed" in text
    assert "Defect 0 makes the answer wrong" in text
    assert "request   POST /v1/chat/completions" in text
    assert "response  500" in text
    assert "rule      OpenAI API reference" in text
    assert "verdict  failed" in text


def test_fifty_cases_of_one_cause_are_one_entry_with_three_names() -> None:
    text = screen(stage(failing(50, 1)), width=132, height=40)
    assert text.count("✗") == 1
    assert "(50 cases)" in text
    assert text.count("test_a_behaviour") == 3
    assert "and 47 more" in text


def test_causes_that_do_not_fit_are_counted_with_their_cases() -> None:
    text = screen(stage(failing(400, 40)))
    shown = text.count("✗")
    assert f"  and {40 - shown} more causes of {400 - 10 * shown} cases" in text


def test_what_is_not_a_failure_has_another_mark() -> None:
    cases = [
        Case(name="a", status=CaseStatus.ERRORED, message="ReadError: gone"),
        Case(name="b", status=CaseStatus.INCONCLUSIVE, message="the machine is busy"),
    ]
    text = screen(stage(cases))
    assert "! ReadError: gone (1 case errored)" in text
    assert "? the machine is busy (1 case inconclusive)" in text
    assert "1 of 2 cases errored, 1 inconclusive, for 2 reasons:" in text


def test_skipped_cases_are_summed_up_by_reason() -> None:
    text = screen(stage([*skipped(24, 1), *skipped(5, 5)]), width=132)
    assert "skipped   25 cases: the server lacks a\n" in text
    assert text.count("the server lacks") == 3
    assert "2 cases for 2 other reasons" in text


def test_a_log_of_many_lines_leaves_no_room_for_nothing_else() -> None:
    message = "\n".join(["the server died during the stage; the end of its log:", *(f"log line {n}" for n in range(200))])
    dead = StageResult(name="security", verdict=Verdict.ERRORED, seconds=1.0, message=message)
    text = screen(stage(failing(50, 2)), dead, width=132, height=40)
    assert len(text.splitlines()) < 40
    assert "security: errored\nthe server died during the stage; the end of its log:\nlog line 0\n" in text
    assert f"more lines: {FOLDER}/report.html" in text
    assert "Defect 0 makes the answer wrong" in text


def test_a_stage_that_did_not_run_is_said_once() -> None:
    gone = "not run: the server was gone before the stage began"
    stages = [StageResult(name=name, verdict=Verdict.ERRORED, seconds=0.0, message=gone) for name in ("a", "b", "c")]
    text = screen(*stages)
    assert text.count(gone) == 1
    assert "a (the whole stage)" in text


def test_lines_of_a_ci_log_are_not_cut() -> None:
    lines = screen(stage(failing(50, 3)), terminal=False).splitlines()
    assert len(lines) <= 60
    assert any(line.endswith("日本語 (17 cases)") for line in lines)
    assert f"    rule      {RULE}" in lines


def test_nothing_that_a_server_sends_reaches_the_terminal_as_a_command() -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J\u202e"
    cases = [
        Case(name=f"a{hostile}", status=CaseStatus.FAILED, message=hostile),
        Case(name="b", status=CaseStatus.SKIPPED, message=hostile),
        *failing(1, 1),
    ]
    text = screen(stage(cases, message=hostile + "\nmore"), width=200, height=60)
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert "\\x1b[2J" in text


def test_a_report_of_an_earlier_version_is_shown_without_repeating_its_numbers() -> None:
    text = screen(stage(failing(50, 2), message="50 of 50 cases failed"), width=132, height=40)
    assert text.count("50 of 50 cases failed") == 1
    assert "streaming: failed" not in text
