"""A stage always leaves a result, whatever happens to it or to its server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from vllm_ci.domain.errors import EngineError
from vllm_ci.domain.events import Event, Finished
from vllm_ci.domain.program import Outcome, Program, ServiceSpec
from vllm_ci.domain.report import Case, CaseStatus, StageResult, Verdict, verdict_of
from vllm_ci.domain.stage import StageSpec
from vllm_ci.engines.host import HostEngine
from vllm_ci.stages import STAGES, running
from vllm_ci.stages.running import Runner
from vllm_ci.stages.stage import StageContext

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

LISTENS = "import http.server,sys;http.server.HTTPServer(('127.0.0.1',int(sys.argv[1])),http.server.BaseHTTPRequestHandler)"
WEB = ServiceSpec(
    name="web",
    argv=(
        "python",
        "-c",
        f"{LISTENS}.timeout=1\nimport os,time\nwhile not os.path.exists(sys.argv[2]): time.sleep(0.05)",
        "{port}",
        "{in.end}/end",
    ),
    ready=("true",),
)


@dataclass(frozen=True)
class Judging:
    """A stage of one program whose exit code is its only case."""

    argv: tuple[str, ...]
    name: str = "judging"
    needs_server: bool = True

    def programs(self, context: StageContext) -> tuple[Program, ...]:  # noqa: ARG002
        return (Program(name="judge", argv=self.argv),)

    async def result(self, context: StageContext, outcomes: Sequence[Outcome]) -> StageResult:  # noqa: ARG002
        case = Case(name="it", status=CaseStatus.PASSED if outcomes[0] else CaseStatus.FAILED)
        verdict, message = verdict_of([case])
        return StageResult(name=self.name, verdict=verdict, seconds=outcomes[0].seconds, cases=(case,), message=message)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(running, "_LAST_WORDS_S", 0.1)
    monkeypatch.setattr(running, "_WATCH_INTERVAL_S", 0.05)


def stage(monkeypatch: pytest.MonkeyPatch, *argv: str) -> StageContext:
    monkeypatch.setitem(STAGES, "judging", Judging(argv))
    return StageContext(spec=StageSpec(name="judging"))


@pytest.mark.parametrize(("command", "verdict"), [("true", Verdict.PASSED), ("false", Verdict.FAILED)])
async def test_a_stage_is_judged_and_told(monkeypatch: pytest.MonkeyPatch, command: str, verdict: Verdict) -> None:
    events: list[Event] = []
    async with HostEngine() as engine:
        runner = Runner(engine=engine, emit=events.append)
        await runner.run(stage(monkeypatch, command))
    assert runner.results["judging"].verdict is verdict
    (finished,) = [event for event in events if isinstance(event, Finished)]
    assert finished.verdict is verdict


async def test_a_program_that_cannot_be_started_is_an_errored_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    async with HostEngine() as engine:
        runner = Runner(engine=engine, emit=lambda _: None)
        await runner.run(stage(monkeypatch, "no-such-program"))
    assert runner.results["judging"].verdict is Verdict.ERRORED
    assert "no-such-program" in runner.results["judging"].message


async def test_a_server_that_dies_meanwhile_ends_the_stage_as_errored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with HostEngine() as engine:
        runner = Runner(engine=engine, emit=lambda _: None)
        spec = ServiceSpec(name=WEB.name, argv=WEB.argv, ready=WEB.ready, inputs={"end": engine.directory(tmp_path)})
        async with engine.serve(spec) as service:
            with anyio.fail_after(30):
                async with anyio.create_task_group() as group:
                    group.start_soon(runner.run, stage(monkeypatch, "sleep", "600"), service)
                    (tmp_path / "end").touch()
            result = runner.results["judging"]
            assert result.verdict is Verdict.ERRORED
            assert "died during the stage" in result.message
            await runner.run(stage(monkeypatch, "true"), service)
    assert "was gone before the stage began" in runner.results["judging"].message


async def test_a_server_that_lives_does_not_hold_a_stage_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with HostEngine() as engine:
        runner = Runner(engine=engine, emit=lambda _: None)
        spec = ServiceSpec(name=WEB.name, argv=WEB.argv, ready=WEB.ready, inputs={"end": engine.directory(tmp_path)})
        with anyio.fail_after(30):
            async with engine.serve(spec) as service:
                await runner.run(stage(monkeypatch, "true"), service)
    assert runner.results["judging"].verdict is Verdict.PASSED


@dataclass
class Doubtful:
    """A service that answers questions about its life as told, and lives afterwards."""

    answers: list[bool]
    name: str = "vllm"
    url: str = "http://127.0.0.1:1"
    ready_s: float = 0.1

    async def log(self) -> str:
        return "INFO fine"

    async def alive(self) -> bool:
        return self.answers.pop(0) if self.answers else True


@pytest.mark.parametrize("answers", [[False], [True, False], [True, True, False, False], [False, True, False, True, False]])
async def test_a_health_check_that_is_missed_and_then_answers_is_no_death(
    monkeypatch: pytest.MonkeyPatch, answers: list[bool]
) -> None:
    async with HostEngine() as engine:
        runner = Runner(engine=engine, emit=lambda _: None)
        await runner.run(stage(monkeypatch, "sleep", "0.5"), Doubtful(answers=answers))
    assert runner.results["judging"].verdict is Verdict.PASSED


async def test_a_server_that_died_is_explained_by_one_stage_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with HostEngine() as engine:
        runner = Runner(engine=engine, emit=lambda _: None)
        spec = ServiceSpec(name=WEB.name, argv=WEB.argv, ready=WEB.ready, inputs={"end": engine.directory(tmp_path)})
        with anyio.fail_after(30):
            async with engine.serve(spec) as service, anyio.create_task_group() as group:
                group.start_soon(runner.run, stage(monkeypatch, "sleep", "600"), service)
                (tmp_path / "end").touch()
            await runner.run(stage(monkeypatch, "true"), service, row="later")
    assert "the end of its log" in runner.results["judging"].message
    expected = "not run: the server was gone before the stage began (it died during judging)"
    assert runner.results["later"].message == expected


async def test_a_stage_that_is_stopped_is_cut_and_later_ones_are_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    async with HostEngine() as engine:
        runner = Runner(engine=engine, emit=lambda _: None)
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(runner.run, stage(monkeypatch, "sleep", "600"))
                await anyio.sleep(0.5)
                runner.stop("interrupted by SIGTERM")
                await runner.idle()
            await runner.run(stage(monkeypatch, "true"), row="later")
    assert runner.results["judging"].message == "interrupted by SIGTERM before it finished"
    assert runner.results["later"].verdict is Verdict.ERRORED
    assert runner.results["later"].message == "not run (interrupted by SIGTERM)"


def test_an_engine_error_is_ours_to_catch() -> None:
    assert issubclass(EngineError, Exception)
    assert EngineError.exit_code == 3
