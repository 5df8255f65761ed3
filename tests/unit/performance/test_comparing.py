"""The stage ``performance`` in a pipeline: pairs of fresh starts, judged, with every way to end."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from standin.repository import repository
from vllm_ci import MemoryEngine, run_pipeline
from vllm_ci.domain.program import Outcome, Program, Service, ServiceSpec
from vllm_ci.domain.report import CaseStatus, StageResult, Verdict
from vllm_ci.engines.memory import kills_the_server
from vllm_ci.engines.scripts import Ends, measured

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("in_project")]
BASELINE = f"sha256:{hashlib.sha256(b'baseline').hexdigest()}"
OTHERS = "unit: {enabled: false}, integration: {enabled: false}, streaming: {enabled: false}, security: {enabled: false}"
NOISE = (0.01, -0.01, 0.02, -0.02, 0.0, 0.015, -0.01)
Ending = Callable[[int], Ends]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def in_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path.parent / "home"))


class Arms(MemoryEngine):
    """The measurement of a start ends as scripted for its image."""

    def __init__(self, *, baseline: Ending, candidate: Ending) -> None:
        super().__init__()
        self.endings = {"baseline": baseline, "candidate": candidate}
        self.order: list[str] = []

    @asynccontextmanager
    async def serve(self, spec: ServiceSpec) -> AsyncIterator[Service]:
        assert spec.image is not None
        self.order.append("baseline" if spec.image.digest == BASELINE else "candidate")
        async with super().serve(spec) as service:
            yield service

    async def run(self, program: Program, *, stop: anyio.Event | None = None) -> Outcome:
        if program.name == "measure":
            arm = self.order[-1]
            self.on("measure", self.endings[arm](self.order.count(arm) - 1))
        return await super().run(program, stop=stop)


def slower(share: float = 0.0, **counters: float) -> Ending:
    return lambda start: measured(slowdown=(1 + share) * (1 + NOISE[start % len(NOISE)]) - 1, **counters)


def config(**settings: object) -> str:
    inner = ", ".join(f"{name}: {value}" for name, value in {"enabled": "true", **settings}.items())
    return f"version: 1\nname: mine\nstages: {{{OTHERS}, performance: {{{inner}}}}}\n"


async def run(folder: Path, engine: MemoryEngine, **settings: object) -> StageResult:
    report = await run_pipeline(repository(folder, config=config(**settings)), engine=engine)
    (stage,) = report.stages
    return stage


def statuses(stage: StageResult) -> dict[str, CaseStatus]:
    return {case.name.partition("::")[2]: case.status for case in stage.cases}


@pytest.mark.slow
async def test_equal_images_pass_after_the_first_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"):  # the commit seeds the order: one of 32 orders all pairs alike
        monkeypatch.setenv(name, "2026-01-01T00:00:00Z")
    engine = Arms(baseline=slower(), candidate=slower())
    stage = await run(tmp_path, engine)
    assert stage.verdict is Verdict.PASSED, stage.message
    assert set(statuses(stage)) == {"ttft_ms", "tpot_ms", "output_tokens_per_s"}
    assert engine.order.count("baseline") == engine.order.count("candidate") == 6
    pairs = [tuple(engine.order[at : at + 2]) for at in range(0, 12, 2)]
    assert len(set(pairs)) == 2, "the order within pairs is random"
    assert all(set(pair) == {"baseline", "candidate"} for pair in pairs)


@pytest.mark.slow
async def test_a_slower_image_fails_with_its_interval(tmp_path: Path) -> None:
    stage = await run(tmp_path, Arms(baseline=slower(), candidate=slower(0.2)))
    assert stage.verdict is Verdict.FAILED
    assert set(statuses(stage).values()) == {CaseStatus.FAILED}
    assert "20.0% slower (+20.0% to +20.0%, 6 pairs); up to 5% slower is tolerated" in stage.cases[0].message
    assert "one run against one would have said failed" in stage.message


@pytest.mark.slow
async def test_a_faster_image_passes(tmp_path: Path) -> None:
    stage = await run(tmp_path, Arms(baseline=slower(), candidate=slower(-0.2)))
    assert stage.verdict is Verdict.PASSED


@pytest.mark.slow
async def test_noise_takes_all_pairs_and_is_inconclusive(tmp_path: Path) -> None:
    def wild(start: int) -> Ends:
        return measured(slowdown=(0.4, 0.0, -0.3, 0.1)[start % 4])

    engine = Arms(baseline=slower(), candidate=wild)
    stage = await run(tmp_path, engine)
    assert stage.verdict is Verdict.INCONCLUSIVE
    assert engine.order.count("candidate") == 12


async def test_the_report_has_every_pair(tmp_path: Path) -> None:
    stage = await run(tmp_path, Arms(baseline=slower(), candidate=slower()), pairs="{min: 3, max: 3}")
    found = stage.metrics["comparison"]
    assert isinstance(found, dict)
    assert found["baseline"] == BASELINE
    assert found["candidate"] != BASELINE
    assert len(found["pairs"]) == 3
    assert all(len(values) == 3 for values in found["pairs"][0]["log_ratios"].values())
    assert set(found["estimates"]) == {"ttft_ms", "tpot_ms", "output_tokens_per_s"}
    assert found["naive"]["verdict"] == "passed"


@pytest.mark.slow
async def test_a_counter_without_noise_fails_alone(tmp_path: Path) -> None:
    stage = await run(tmp_path, Arms(baseline=slower(prefix_cache_hits=512), candidate=slower(prefix_cache_hits=0)))
    assert stage.verdict is Verdict.FAILED
    assert "prefix_cache_hits, round 1: 0 in every start of the candidate, 512 in every one of the baseline" in stage.message


@pytest.mark.slow
async def test_more_prefix_hits_are_an_improvement(tmp_path: Path) -> None:
    stage = await run(tmp_path, Arms(baseline=slower(prefix_cache_hits=0), candidate=slower(prefix_cache_hits=512)))
    assert stage.verdict is Verdict.PASSED


@pytest.mark.slow
async def test_a_counter_that_varies_between_starts_of_one_image_is_not_compared(tmp_path: Path) -> None:
    def counted(offset: int) -> Ending:
        return lambda start: measured(slowdown=NOISE[start % 7], chunks=3200 - offset - start)

    stage = await run(tmp_path, Arms(baseline=counted(0), candidate=counted(50)))
    assert stage.verdict is Verdict.PASSED, stage.message


async def test_other_token_counts_end_it_after_one_pair(tmp_path: Path) -> None:
    engine = Arms(baseline=slower(), candidate=slower(output_tokens=3100))
    stage = await run(tmp_path, engine)
    assert stage.verdict is Verdict.FAILED
    assert "3100 output tokens of the candidate, 3200 of the baseline, for the same requests" in stage.message
    assert len(engine.order) == 2


def broken(why: str) -> Ending:
    one = {"verdict": "failed", "reasons": [why], "values": {}, "counters": {}, "short_answers": 0}
    return lambda _start: Ends(files={"measurement.json": {"format": 1, "rounds": [one] * 3}, "asked.json": {}})


@pytest.mark.parametrize(("arm", "verdict"), [("candidate", Verdict.FAILED), ("baseline", Verdict.ERRORED)])
async def test_failed_requests_are_a_failure_of_the_candidate_only(tmp_path: Path, arm: str, verdict: Verdict) -> None:
    endings = {"baseline": slower(), "candidate": slower(), arm: broken("3 of 32 requests failed: status 500")}
    stage = await run(tmp_path, Arms(**endings))
    assert stage.verdict is verdict
    assert f"the {arm}, round 1: 3 of 32 requests failed: status 500" in stage.message


async def test_a_server_that_does_not_start_is_an_error_with_its_cause(tmp_path: Path) -> None:
    engine = MemoryEngine().on("vllm", Ends(), Ends(exit_code=1, log="ValueError: no such dtype"))
    stage = await run(tmp_path, engine)
    assert stage.verdict is Verdict.ERRORED
    assert "the server did not start" in stage.message
    assert "ValueError: no such dtype" in stage.message
    assert stage.message.startswith(("the baseline", "the candidate"))


@pytest.mark.slow
async def test_a_server_that_dies_is_an_error_and_keeps_the_pairs(tmp_path: Path) -> None:
    def dies(start: int) -> Ends:
        return measured() if start < 3 else Ends(kills_server="CUDA error: an illegal memory access", exit_code=3)

    stage = await run(tmp_path, Arms(baseline=slower(), candidate=dies))
    assert stage.verdict is Verdict.ERRORED
    assert "the server of the candidate died while it was measured" in stage.message
    assert "illegal memory access" in stage.message
    found = stage.metrics["comparison"]
    assert isinstance(found, dict)
    assert len(found["pairs"]) == 3
    assert "so far" in stage.cases[-1].message


async def test_a_program_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    stage = await run(tmp_path, MemoryEngine().on("measure", Ends(exit_code=1, log="Traceback: broken client")))
    assert stage.verdict is Verdict.ERRORED
    assert "ended with exit code 1" in stage.message
    assert "broken client" in stage.message


async def test_rounds_that_cannot_be_trusted_are_left_out(tmp_path: Path) -> None:
    def one_late(start: int) -> Ends:
        found = measured(slowdown=NOISE[start % 7])
        rounds = [dict(each) for each in found.files["measurement.json"]["rounds"]]
        rounds[0] |= {"verdict": "inconclusive", "reasons": ["the client was late"], "values": {"ttft_ms": 9e9}}
        return Ends(files={"measurement.json": {"format": 1, "rounds": rounds}, "asked.json": {}})

    stage = await run(tmp_path, Arms(baseline=slower(), candidate=one_late))
    assert stage.verdict is Verdict.PASSED, stage.message


async def test_a_pair_without_a_round_that_can_be_trusted_is_repeated_and_then_inconclusive(tmp_path: Path) -> None:
    late = {"verdict": "inconclusive", "reasons": ["the client was late"], "values": {}, "counters": {}, "short_answers": 0}
    ending = Ends(files={"measurement.json": {"format": 1, "rounds": [late] * 3}, "asked.json": {}})
    stage = await run(tmp_path, Arms(baseline=slower(), candidate=lambda _start: ending))
    assert stage.verdict is Verdict.INCONCLUSIVE
    assert "3 pairs have no round that can be trusted: the client was late" in stage.message
    passing = Arms(baseline=slower(), candidate=lambda start: ending if start == 2 else slower()(start))
    again = await run(tmp_path / "again", passing)
    assert again.verdict is Verdict.PASSED, "one such pair is repeated"
    assert passing.order.count("candidate") == 7


def absent() -> Ends:
    facts = {"source": "the channel production has no release", "repository": "", "digest": None}
    return Ends(files={"image.json": facts})


@pytest.mark.parametrize(("first", "verdict"), [("false", Verdict.INCONCLUSIVE), ("true", Verdict.PASSED)])
async def test_a_first_release_is_measured_and_compared_with_nothing(tmp_path: Path, first: str, verdict: Verdict) -> None:
    engine = MemoryEngine().on("baseline", absent())
    stage = await run(tmp_path, engine, first=first)
    assert stage.verdict is verdict
    assert "no baseline: the channel production has no release" in stage.message
    assert engine.programs.count("measure") == 1
    found = stage.metrics["comparison"]
    assert isinstance(found, dict)
    assert len(found["candidate"]) == 3


async def test_a_baseline_that_cannot_be_obtained_is_an_error(tmp_path: Path) -> None:
    log = "vllm-ci: the ledger cannot be reached\n  why: connection refused\n  do:  check the URL"
    stage = await run(tmp_path, MemoryEngine().on("baseline", Ends(exit_code=3, log=log)))
    assert stage.verdict is Verdict.ERRORED
    assert "no baseline: the ledger cannot be reached" in stage.message


@pytest.mark.slow
async def test_an_image_is_not_measured_against_itself(tmp_path: Path) -> None:
    folder = repository(tmp_path, config=config())
    engine = MemoryEngine()
    built = await run_pipeline(folder, engine=MemoryEngine())
    assert built.image is not None
    facts = {"source": "channel production", "repository": "memory", "digest": built.image.digest}
    engine.on("baseline", Ends(files={"image.json": facts, "config.json": {}}))
    (stage,) = (await run_pipeline(folder, engine=engine)).stages
    assert stage.verdict is Verdict.PASSED
    assert "the commit's image is the baseline itself" in stage.message
    assert "measure" not in engine.programs


async def test_every_start_is_asked_what_the_first_one_was(tmp_path: Path) -> None:
    engine = MemoryEngine()
    await run(tmp_path, engine, pairs="{min: 3, max: 3}", concurrency=4)
    programs = [program for program in engine.ran if program.name == "measure"]
    assert [set(program.inputs) for program in programs] == [set(), *[{"asked"}] * 5]
    assert all("--concurrency=4" in program.argv for program in programs)


@pytest.mark.slow
async def test_nothing_else_runs_while_it_measures(tmp_path: Path) -> None:
    settings = "version: 1\nname: mine\nstages: {performance: {enabled: true}}\n"
    engine = MemoryEngine()
    report = await run_pipeline(repository(tmp_path, config=settings), engine=engine)
    assert report.verdict is Verdict.PASSED
    first = engine.programs.index("measure")
    assert set(engine.programs[first:]) <= {"measure"}
    assert engine.stopped[0] == "vllm"


async def test_it_is_off_by_default(tmp_path: Path) -> None:
    report = await run_pipeline(repository(tmp_path), engine=MemoryEngine())
    assert "performance" not in [stage.name for stage in report.stages]


@pytest.mark.slow
async def test_it_can_be_asked_for_by_name(tmp_path: Path) -> None:
    report = await run_pipeline(repository(tmp_path), engine=MemoryEngine(), stages=["performance"])
    assert [stage.name for stage in report.stages] == ["performance"]


@pytest.mark.slow
async def test_a_hanging_measurement_does_not_outlive_its_server(tmp_path: Path) -> None:
    with anyio.fail_after(30):
        stage = await run(tmp_path, MemoryEngine().on("measure", kills_the_server("Killed")))
    assert stage.verdict is Verdict.ERRORED
    assert "died while it was measured" in stage.message
