"""A stage goes on after its server died: on a new server, with the cases that were not run."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import pytest

from vllm_ci.domain.program import Service, ServiceSpec
from vllm_ci.domain.report import Case, CaseStatus, StageResult, Verdict, verdict_of
from vllm_ci.domain.stage import StageSpec
from vllm_ci.engines.host import HostEngine
from vllm_ci.stages import reviving, suite
from vllm_ci.stages.running import Runner
from vllm_ci.stages.stage import StageContext
from vllm_ci.suites import ends

pytestmark = pytest.mark.anyio
TESTS = Path(__file__).parents[2]
# Only one case sends this.
WORD = "Xylophones"
KILLER = "integration/test_usage.py::test_prompt_tokens_are_those_of_the_tokenizer"


def case(name: str, status: CaseStatus = CaseStatus.PASSED, cause: str = "") -> Case:
    return Case(name=name, status=status, message=cause, properties={"cause": {"id": cause}} if cause else {})


def result(*cases: Case) -> StageResult:
    verdict, message = verdict_of(cases)
    return StageResult(name="integration", verdict=verdict, seconds=1.0, cases=cases, message=message)


KILLED = case("b", CaseStatus.FAILED, ends.DIED)
LEFT = case("c", CaseStatus.ERRORED, ends.GONE)


def test_what_was_not_run_and_what_killed_the_server_is_repeated() -> None:
    assert reviving.to_repeat(result(case("a"), KILLED, LEFT)) == ("b", "c")
    assert reviving.to_repeat(result(case("a"), KILLED, LEFT), ["b"]) == ("c",)
    assert reviving.to_repeat(result(case("a"), case("x", CaseStatus.FAILED))) == ()


def test_a_case_that_kills_each_server_fails() -> None:
    found = reviving.merged(result(case("a"), KILLED, LEFT), result(KILLED, case("c")))
    assert found.verdict is Verdict.FAILED
    assert [each.status for each in found.cases] == [CaseStatus.PASSED, CaseStatus.FAILED, CaseStatus.PASSED]


def test_a_death_that_does_not_repeat_is_errored() -> None:
    found = reviving.merged(result(case("a"), KILLED, LEFT), result(case("b"), case("c")))
    assert found.verdict is Verdict.ERRORED
    assert "did not happen again" in found.cases[1].message


def test_two_deaths_that_do_not_repeat_are_a_fact_about_the_server() -> None:
    first = result(case("a"), KILLED, LEFT, case("d", CaseStatus.ERRORED, ends.GONE))
    second = result(case("b"), case("c", CaseStatus.FAILED, ends.DIED), case("d", CaseStatus.ERRORED, ends.GONE))
    once = reviving.merged(first, second)
    assert reviving.to_repeat(once, ["b"]) == ("c", "d")
    found = reviving.merged(once, result(case("c"), case("d")))
    assert found.verdict is Verdict.FAILED
    assert sum(each.status is CaseStatus.FAILED for each in found.cases) == 2


def test_a_second_run_without_a_report_is_no_pass() -> None:
    broken = StageResult(name="integration", verdict=Verdict.ERRORED, seconds=1.0, message="no report")
    assert reviving.merged(result(case("a"), LEFT), broken).verdict is Verdict.ERRORED


CUT = case("b", CaseStatus.ERRORED, ends.CUT)
NOT_BEGUN = case("c", CaseStatus.ERRORED, ends.NOT_BEGUN)


def test_the_case_that_was_running_when_the_suite_was_stopped_is_where_the_server_died_and_the_rest_is_repeated() -> None:
    found = reviving.without_server(result(case("a"), CUT, NOT_BEGUN), "the server died")
    assert [reviving.cause_of(each) for each in found.cases] == ["", ends.DIED, ends.GONE]
    assert reviving.to_repeat(found) == ("b", "c")
    assert reviving.merged(found, result(case("b"), case("c"))).verdict is Verdict.ERRORED


def test_what_a_suite_that_was_stopped_did_not_reach_is_repeated() -> None:
    unasked = case("a", CaseStatus.ERRORED, ends.UNREACHABLE)
    found = reviving.without_server(result(unasked, CUT, NOT_BEGUN), "the server died")
    assert [reviving.cause_of(each) for each in found.cases] == [ends.DIED, ends.GONE, ends.GONE]
    assert "before the first case" in found.cases[0].message


def test_a_suite_that_noticed_by_itself_keeps_what_it_said() -> None:
    noticed = result(KILLED, LEFT, case("d", CaseStatus.ERRORED, ends.CUT), NOT_BEGUN)
    found = reviving.without_server(noticed, "the server died")
    assert [reviving.cause_of(each) for each in found.cases] == [ends.DIED, ends.GONE, ends.GONE, ends.GONE]
    complete = result(case("a"), KILLED, LEFT)
    assert reviving.without_server(complete, "the server died") is complete


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(suite, "REPORT", (*suite.REPORT, "-k", "usage or health or lists"))
    return tmp_path


async def judged(*arguments: str) -> tuple[StageResult, int]:
    """The integration stage on a server that dies, and how many servers were started."""
    count = 0
    async with HostEngine() as engine:
        spec = ServiceSpec(
            name="vllm",
            argv=(sys.executable, "{in.tests}/standin/mortal.py", "{port}", *arguments),
            ready=(sys.executable, "-c", "import sys, urllib.request as u; u.urlopen(sys.argv[1] + '/health')", "{url}"),
            env={"PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)])},
            inputs={"tests": engine.directory(TESTS)},
        )

        def again(_: Service) -> AbstractAsyncContextManager[Service]:
            nonlocal count
            count += 1
            return engine.serve(spec)

        runner = Runner(engine=engine, emit=lambda _: None, renew=again)
        with anyio.fail_after(120):
            async with engine.serve(spec) as service:
                await runner.run(StageContext(spec=StageSpec(name="integration", timeout_s=100), service=service), service)
    return runner.results["integration"], count


@pytest.mark.slow
@pytest.mark.usefixtures("started")
async def test_the_case_that_kills_the_server_fails_and_the_others_are_run_on_a_new_one() -> None:
    found, count = await judged(WORD)
    assert {each.name for each in found.cases if each.status is CaseStatus.FAILED} == {KILLER}, found.message
    assert found.verdict is Verdict.FAILED
    (killer,) = [each for each in found.cases if each.name == KILLER]
    assert "the server died" in killer.message
    assert WORD in killer.details
    assert not [each for each in found.cases if reviving.cause_of(each) == ends.GONE]
    assert sum(each.status is CaseStatus.PASSED for each in found.cases) > 5
    assert "was started again" in found.message
    assert reviving.MOST_SERVERS > count >= 2


@pytest.mark.slow
async def test_a_server_that_somebody_killed_is_errored_and_everything_else_is_known(started: Path) -> None:
    found, count = await judged(WORD, str(started / "killed"))
    assert found.verdict is Verdict.ERRORED, found.message
    assert [
        each.name for each in found.cases if each.status is not CaseStatus.PASSED and each.status is not CaseStatus.SKIPPED
    ] == [KILLER]
    assert count == 1


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 5], ids=["first-request", "capabilities"])
async def test_a_server_that_dies_while_it_is_asked_what_it_can_do_is_started_again(started: Path, at: int) -> None:
    found, count = await judged(str(at), str(started / "killed"))
    assert found.verdict is Verdict.ERRORED, found.message
    assert [case.name for case in found.cases if case.status is CaseStatus.SKIPPED] == []
    (first,) = [case for case in found.cases if case.status is not CaseStatus.PASSED]
    assert "the server died while it was asked what it can do" in first.message
    assert "did not happen again" in first.message
    assert count == 1


@pytest.mark.slow
@pytest.mark.usefixtures("started")
async def test_a_server_that_dies_each_time_it_is_asked_what_it_can_do_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reviving, "MOST_SERVERS", 2)
    found, _ = await judged("5")
    assert found.verdict is Verdict.FAILED, found.message
    assert "before the first case" in next(case.message for case in found.cases if case.status is CaseStatus.FAILED)
