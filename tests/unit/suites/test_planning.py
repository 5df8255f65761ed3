"""A suite fits into its budget: cases get smaller, long ones are left out, and that is said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from doubles.asked import Asked
from doubles.bodies import Json
from doubles.running import running
from doubles.server import Double
from doubles.wire import Connection, Response
from unit.cli.test_restart_wait import IsStartedAgain
from vllm_ci.suites.plugins import budget, planning
from vllm_ci.suites.speed import LARGEST_SLOWNESS, Speed

pytest_plugins = "pytester"

LONG = "test_a_long_response_comes_whole"
GREEDY = "test_a_greedy_stream_is_the_greedy_answer"


class Slow(Double):
    token_s = 0.01


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(Slow) as (found, _):
        yield found


def ran(pytester: pytest.Pytester, url: str, *arguments: str) -> tuple[dict[str, Any], pytest.RunResult]:
    """The report, and pytest's own result."""
    result = pytester.runpytest(
        *("-p", "vllm_ci.suites.plugin", "-p", "no:xdist", "-p", "no:cacheprovider", "-W", "ignore", "-rs"),
        *("--pyargs", "vllm_ci.suites.streaming", "-c", "/dev/null", "--rootdir", str(pytester.path)),
        *("--base-url", url, "--vllm-report", "out", *arguments),
    )
    document: dict[str, Any] = json.loads((pytester.path / "out/cases.json").read_text())
    return document, result


@pytest.mark.slow
def test_what_does_not_fit_is_smaller_or_left_out_and_said(pytester: pytest.Pytester, url: str) -> None:
    found, result = ran(pytester, url, "--vllm-budget", "2", "-k", f"{LONG} or {GREEDY}")
    cases = {case["name"]: case for case in found["cases"]}
    long = [case for name, case in cases.items() if LONG in name]
    assert [case["status"] for case in long] == ["skipped", "skipped"]
    assert all("left out for time: about" in case["message"] and "run with --deep" in case["message"] for case in long)
    greedy = [case for name, case in cases.items() if GREEDY in name]
    assert [case["status"] for case in greedy] == ["passed", "passed"]
    assert all(20 <= case["properties"]["output_tokens"] < 64 for case in greedy)
    plan = found["session"]["plan"]
    assert len(plan["left_out"]) == 2
    assert plan["estimate_s"] <= 2
    result.stdout.fnmatch_lines(["4 cases, about * s (budget 2 s); *", "left out for time: 2 cases*", "*run with --deep*"])


@pytest.mark.slow
def test_without_a_budget_all_run_at_full_size(pytester: pytest.Pytester, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CI_BUDGET", "0")
    found, _ = ran(pytester, url, "-k", f"({LONG} and chat) or {GREEDY}")
    assert {case["status"] for case in found["cases"]} == {"passed"}
    assert all(case["properties"]["output_tokens"] == 64 for case in found["cases"] if GREEDY in case["name"])
    assert found["session"]["plan"]["left_out"] == []


@pytest.mark.slow
def test_what_a_profile_requires_is_never_left_out(pytester: pytest.Pytester, url: str) -> None:
    pytester.makeconftest(
        """
        import pytest
        def pytest_itemcollected(item):
            if "test_a_system_message_reaches_a_stream" in item.name:
                item.add_marker(pytest.mark.deep)
        """
    )
    arguments = ("--vllm-budget", "0.0001", "-k", "test_a_system_message_reaches_a_stream", "-p", "conftest")
    pytester.syspathinsert()
    left_out, _ = ran(pytester, url, *arguments)
    assert [case["status"] for case in left_out["cases"]] == ["skipped"]
    kept, _ = ran(pytester, url, *arguments, "--vllm-require", "chat")
    assert [case["status"] for case in kept["cases"]] == ["passed"]


def test_a_users_own_tests_are_measured_by_nobody_and_get_their_full_size(pytester: pytest.Pytester, url: str) -> None:
    pytester.makepyfile(
        test_mine="""
        import pytest
        @pytest.mark.sized(tokens=(40, 4))
        def test_own(size): assert (size.tokens, size.streams) == (40, 0)
        """
    )
    result = pytester.runpytest(
        "-p", "vllm_ci.suites.plugin", "-p", "no:xdist", "-W", "ignore", "--base-url", url, "--vllm-budget", "0.01"
    )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("given", ["-1", "soon"])
def test_a_budget_that_is_none_is_refused(pytester: pytest.Pytester, given: str) -> None:
    pytester.makepyfile(test_mine="def test_x(): pass")
    result = pytester.runpytest("-p", "vllm_ci.suites.plugin", "-p", "no:xdist", f"--vllm-budget={given}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR


@pytest.mark.slow
def test_a_server_that_becomes_slow_is_measured_again_by_what_its_cases_take(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tiring(Double):
        token_s = 0.004

        async def completed(self, asked: Asked, body: Json, connection: Connection) -> Response | None:
            if self.counts["requests"] > 40:
                self.token_s = 0.05
            return await super().completed(asked, body, connection)

    monkeypatch.setattr(budget, "_ENOUGH_S", 1.0)
    with running(Tiring) as (url, _):
        found, result = ran(pytester, url, "--vllm-budget", "60", "-k", f"test_streams_in_rapid_succession or {LONG}")
    result.stdout.fnmatch_lines(["4 cases, about [12]? s (budget 60 s); *"])
    statuses = [case["status"] for case in found["cases"]]
    assert sorted(statuses) == ["passed", "passed", "skipped", "skipped"]
    assert len(found["session"]["plan"]["left_out"]) == 2


def test_a_request_that_keeps_the_server_busy_makes_no_timeout_ten_times_as_long(pytestconfig: pytest.Config) -> None:
    quick = Speed(request_s=0.02, step_s=0.01, crowd_request_s=0.3, crowd_step_s=0.01, prompt_token_s=0.0001)
    planner = planning.Planner(pytestconfig)
    assert planner.slowness == 1.0
    planner._speed = planner._first = quick
    assert planner.slowness == 1.0
    planner._speed = quick.scaled(64)  # as after one case that took minutes
    assert 1.0 < planner.slowness <= 3.0
    planner._speed = planner._first = quick.scaled(20)  # slow from the beginning
    assert planner.slowness == LARGEST_SLOWNESS


@pytest.mark.slow
def test_no_case_begins_after_several_times_the_budget(
    pytester: pytest.Pytester, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "_MOST", 0.0)
    monkeypatch.setattr(planning, "_MOST_LEAST_S", 0.1)
    found, _ = ran(pytester, url, "--vllm-budget", "60", "-k", GREEDY)
    first, second = found["cases"]
    assert (first["status"], second["status"]) == ("passed", "skipped")
    assert second["message"].startswith("left out for time: the suite has taken ")
    assert second["message"].endswith(" s of a budget of 60 s; run with --deep")
    assert len(found["session"]["plan"]["left_out"]) == 1


def refusals(pytester: pytest.Pytester, url: str, *arguments: str) -> dict[str, Any]:
    """The report of the cases of refusals."""
    pytester.runpytest(
        *("-p", "vllm_ci.suites.plugin", "-p", "no:xdist", "-p", "no:cacheprovider", "-W", "ignore"),
        *("--pyargs", "vllm_ci.suites.integration", "-k", "test_errors", "-c", "/dev/null", "--rootdir", str(pytester.path)),
        *("--base-url", url, "--vllm-report", "out", "--vllm-budget", "60", *arguments),
    )
    document: dict[str, Any] = json.loads((pytester.path / "out/cases.json").read_text())
    return document


@pytest.mark.slow
def test_the_time_in_which_a_dead_server_is_waited_for_leaves_no_case_out(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(Double) as (url, _):
        alone_s = refusals(pytester, url)["seconds"]  # on this machine, now
    enough_s = 3 * alone_s + 2
    monkeypatch.setattr(planning, "_MOST", 0.0)
    monkeypatch.setattr(planning, "_MOST_LEAST_S", enough_s)

    class IsDownLonger(IsStartedAgain):
        down_s = enough_s + 2

    with running(IsDownLonger) as (url, _):
        document = refusals(pytester, url, "--vllm-return", f"{10 * enough_s:.0f}")
    assert any("the server died" in case["message"] for case in document["cases"])
    assert not [case for case in document["cases"] if case["message"].startswith("left out for time: the suite has taken")]
    assert sum(case["status"] == "passed" for case in document["cases"]) > 10
