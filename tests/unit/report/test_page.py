"""What the page says and links to: sentences, addresses, commands, plots, log lines, and its size."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.report.pages import HOSTILE, hostile, report
from vllm_ci.domain.causes import AffectedCase, Cause, causes_of_report
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.report import Case, CaseStatus, StageResult, Verdict
from vllm_ci.report import html, links, log_lines, plots, reproduce, timeline
from vllm_ci.report.sentences import sentence


@pytest.mark.parametrize(
    ("name", "text", "parameters"),
    [
        ("streaming/test_delivery.py::test_chunks_arrive_over_time[chat]", "Chunks arrive over time", "chat"),
        ("tests/test_a.py::TestTemplates::test_one_is_kept", "Templates: one is kept", ""),
        ("security/server_log::test_holds_no_secret", "Holds no secret", ""),
        ("a.py::test_x[a::b[c]]", "X", "a::b[c]"),
        ("anything else", "anything else", ""),
        ("", "(no name)", ""),
    ],
)
def test_names_of_cases_are_sentences(name: str, text: str, parameters: str) -> None:
    found = sentence(name)
    assert (found.text, found.parameters) == (text, parameters)


@pytest.mark.slow
@given(st.text())
def test_any_name_has_a_visible_sentence(name: str) -> None:
    found = sentence(f"a.py::{name}")
    assert found.text.strip()
    assert "\n" not in found.text + found.parameters


@pytest.mark.parametrize(
    ("source", "page"),
    [
        ("https://github.com/vllm-project/vllm.git", "https://github.com/vllm-project/vllm/commit/"),
        ("git@github.com:vllm-project/vllm.git", "https://github.com/vllm-project/vllm/commit/"),
        ("ssh://git@gitlab.example.com:2222/team/serving.git", "https://gitlab.example.com/team/serving/-/commit/"),
        ("https://user:secret@gitlab.example.com/team/serving", "https://gitlab.example.com/team/serving/-/commit/"),
        ("http://gitea.local:3000/team/x.git", "http://gitea.local:3000/team/x/commit/"),
        ("https://bitbucket.org/team/x", "https://bitbucket.org/team/x/commits/"),
        ("https://unknown.example/x", ""),
        ("javascript:github.com/x", ""),
        ("file:///srv/github.com/x", ""),
        ("https://github.com", ""),
        ("https://[::1", ""),
        ("serving", ""),
        ("", ""),
    ],
)
def test_a_commit_is_linked_where_the_pages_of_the_host_are_known(source: str, page: str) -> None:
    sha = "a" * 40
    assert links.commit(Commit(sha=sha, source=source)) == (page + sha if page else "")


@pytest.mark.slow
@given(st.text(), st.text())
def test_an_address_never_has_another_scheme(source: str, number: str) -> None:
    commit = Commit(sha="a" * 40, source=source, pull_request=number)
    for address in (links.commit(commit), links.pull_request(commit), links.repository(source)):
        assert address == "" or re.fullmatch(r"https?://[^\s\"'<>]+", address)


def test_advisories_are_linked() -> None:
    assert links.advisory("vllm: CVE-2025-12345 is open") == "https://osv.dev/vulnerability/CVE-2025-12345"
    assert links.advisory("GHSA-abcd") == ""


def _cause(*names: str, stage: str = "streaming") -> Cause:
    cases = tuple(AffectedCase(stage=stage, name=name, status=CaseStatus.FAILED) for name in names)
    return Cause(id="x", title="x", status=CaseStatus.FAILED, cases=cases)


def test_a_cause_is_repeated_by_a_command_with_just_its_cases() -> None:
    line = reproduce.command(_cause("streaming/test_a.py::test_x[chat]", "streaming/test_b.py::test_y"), report(1))
    assert shlex.split(line)[-2:] == ["-k", "test_x[chat] or test_y"]
    assert reproduce.needs_server(line, report(1))
    many = reproduce.command(_cause(*(f"streaming/test_a.py::test_x[{n}]" for n in range(50))), report(1))
    assert shlex.split(many)[-2:] == ["-k", "test_x"]


def test_a_cause_of_the_image_or_of_a_whole_stage_is_repeated_by_its_stage() -> None:
    assert reproduce.command(_cause("unit/test_a.py::test_x", stage="unit"), report(1)) == "vllm-ci run --stage unit"
    whole = reproduce.command(_cause("", stage="streaming@second"), report(1))
    assert whole == "vllm-ci test --url http://127.0.0.1:8000 --stage streaming"


@given(st.text(min_size=1))
def test_a_command_is_one_word_for_each_argument_whatever_the_names_are(text: str) -> None:
    words = shlex.split(reproduce.command(_cause(f"a.py::test_x[{text}]", f"{text}::{text}"), report(1)))
    assert words[:6] == ["vllm-ci", "test", "--url", "http://127.0.0.1:8000", "--stage", "streaming"]
    assert len(words) in {6, 8}


def test_steps_that_ran_at_the_same_time_are_beside_each_other() -> None:
    found = {bar.step: bar for bar in timeline.bars(report(1))}
    assert found["unit"].left == found["server"].left == pytest.approx(50.33)
    assert found["build"].left < 1
    assert found["streaming"].left + found["streaming"].width <= 100
    assert list(found) == ["build", "unit", "server", "streaming"]


def test_error_lines_are_counted_and_refused_requests_are_not_among_them() -> None:
    log = "INFO ok\n\x1b[31mERROR worker 1 died\x1b[0m\nERROR worker 22 died\nERROR no model, code=404)\nRuntimeError: boom\n"
    found = log_lines.errors({"server": log})
    assert [(line.number, line.times, line.text) for line in found] == [
        (2, 2, "ERROR worker 1 died"),
        (5, 1, "RuntimeError: boom"),
    ]
    assert len(log_lines.errors({"server": "\n".join(f"ERROR {chr(97 + n) * 9}" for n in range(26))})) == 12


def test_of_a_traceback_in_a_log_its_exceptions_are_shown() -> None:
    head = "(APIServer pid=7) ERROR 11-20 12:00:00 [serving.py:12] "
    said = [
        *(
            "Error in the engine",
            "Traceback (most recent call last):",
            '  File "/opt/a.py", line 1, in run',
            "    step()",
            "    ^^^^^^",
        ),
        *("KeyError: 'x'", "", "During handling of the above exception, another exception occurred:", ""),
        *("Traceback (most recent call last):", '  File "/opt/b.py", line 2, in go', "    stop()", "RuntimeError: boom"),
    ]
    found = log_lines.errors({"server": "".join(f"{head}{line}\n" for line in said)})
    assert [(line.number, line.text.removeprefix(head)) for line in found] == [
        (1, "Error in the engine"),
        (6, "KeyError: 'x'"),
        (13, "RuntimeError: boom"),
    ]


def test_plots_hold_no_script_no_style_and_no_text_of_a_server() -> None:
    stage = StageResult(
        name="s",
        verdict=Verdict.PASSED,
        seconds=1,
        cases=tuple(Case(name=f"c{n}", status=CaseStatus.PASSED, properties={"ttft_ms": 5.0 + n}) for n in range(20)),
    )
    (plot,) = plots.distributions(stage)
    assert plot.caption == "20 streams, from 5 ms to 24 ms, half of them below 15 ms"
    assert plot.svg.count('class="rect reactive') == 10
    assert not re.search(r"<(script|style|title|desc|a)\b|style=|on\w+=|xmlns|http", plot.svg)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0, True, "5", None, [None], {"a": 1}])
def test_values_that_are_no_latencies_are_left_out(value: object) -> None:
    cases = tuple(Case(name=f"c{n}", status=CaseStatus.PASSED, properties={"ttft_ms": value}) for n in range(20))
    assert plots.distributions(StageResult(name="s", verdict=Verdict.PASSED, seconds=1, cases=cases)) == []


def test_equal_latencies_are_one_bar_at_their_value() -> None:
    cases = tuple(Case(name=f"c{n}", status=CaseStatus.PASSED, properties={"ttft_ms": 5}) for n in range(20))
    (plot,) = plots.distributions(StageResult(name="s", verdict=Verdict.PASSED, seconds=1, cases=cases))
    assert "from 5 ms to 5 ms" in plot.caption
    assert set(re.findall(r">([\d.]+) ms<", plot.svg)) == {"5"}


@pytest.mark.parametrize(("first", "last", "said"), [(999.7, 999.8, "1 s to 1 s"), (0.5, 1_234_567, "0.5 ms to 1,235 s")])
def test_latencies_are_written_without_exponents(first: float, last: float, said: str) -> None:
    values = (first, first, last, last)
    cases = tuple(Case(name=f"c{n}", status=CaseStatus.PASSED, properties={"e2e_ms": each}) for n, each in enumerate(values))
    (plot,) = plots.distributions(StageResult(name="s", verdict=Verdict.PASSED, seconds=1, cases=cases))
    assert said in plot.caption


def test_a_long_stream_is_thinned_and_keeps_its_first_and_its_last_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[tuple[float, float]]] = []
    monkeypatch.setattr("pygal.XY.add", lambda _chart, _title, values: drawn.append(values))
    case = Case(name="c", status=CaseStatus.PASSED, properties={"chunks_at_ms": [100.0 + 10 * n for n in range(1000)]})
    stage = StageResult(name="s", verdict=Verdict.PASSED, seconds=1, cases=(case,))
    list(plots.streams(replace(report(1), stages=(stage,))))
    assert (drawn[0][0], drawn[0][-1]) == ((100.0, 1), (10_090.0, 1000))
    assert len(drawn[0]) < 400


@pytest.mark.parametrize(
    ("size", "text"),
    [(999, "999 B"), (84_000, "84 kB"), (999_700, "1 MB"), (999_700_000, "1.00 GB"), (8_414_000_000, "8.41 GB")],
)
def test_sizes_are_written_without_exponents(size: int, text: str) -> None:
    assert html.bytes_(size) == text


def test_figures_of_a_distribution_are_one_fact() -> None:
    found = html.grouped({"a": 1, "ttft_ms_min": 1.0, "ttft_ms_p50": 2.0, "x_min": 3})
    assert found == {"a": 1, "ttft_ms": "min 1, p50 2", "x_min": 3}


def test_two_names_never_share_an_id() -> None:
    assert len({html.place("s", name) for name in ("a b", "a-b", "a<b", *HOSTILE)}) == 3 + len(HOSTILE)


def test_hostile_texts_are_escaped_everywhere() -> None:
    page = html.from_report(hostile(), {"server": "\n".join(f"ERROR {text}" for text in HOSTILE)})
    assert page.count("<script>") == 1
    assert not re.search(r"<(img|svg onload|b id)|href=\"javascript", page)
    assert "{{ 7 * 7 }}" in page
    assert not {"\x1b", "\x00", "\u202e", "\ud800"} & set(page)


def test_the_log_of_a_run_that_passed_is_not_searched_for_errors() -> None:
    passed = replace(report(1), stages=report(1).stages[:1])
    logs = {"server": "ERROR on purpose"}
    assert "Errors in the logs" not in html.from_report(passed, logs)
    assert "Errors in the logs" in html.from_report(report(10), logs)


def test_the_page_of_400_cases_with_figures_is_below_300_kb() -> None:
    assert len(html.from_report(report(400)).encode()) < 300_000
    assert causes_of_report(report(400))


def test_a_case_that_passed_without_figures_takes_120_bytes_besides_its_names() -> None:
    name = "integration/test_errors.py::test_a_bad_field_is_refused_and_named[max-tokens-{}]"

    def size(count: int) -> int:
        cases = tuple(Case(name=name.format(1000 + number), status=CaseStatus.PASSED) for number in range(count))
        stage = StageResult(name="integration", verdict=Verdict.PASSED, seconds=1, cases=cases)
        return len(html.from_report(replace(report(0), stages=(stage,))))

    names = len(name.format(1000)) + len("A bad field is refused and named max-tokens-1000")
    assert (size(600) - size(100)) / 500 - names <= 120
