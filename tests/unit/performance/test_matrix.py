"""The stage ``performance`` with a matrix: every server is measured, and the table compares them with the first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from standin.repository import repository
from vllm_ci import MemoryEngine, run_pipeline
from vllm_ci.cli import progress
from vllm_ci.domain.program import Outcome, Program
from vllm_ci.domain.report import Report, Verdict
from vllm_ci.engines.scripts import Ends, measured
from vllm_ci.performance import matrix
from vllm_ci.report import document

pytestmark = [pytest.mark.usefixtures("in_project")]
ENABLED = "performance: {enabled: true}, unit: {enabled: false}, integration: {enabled: false}, security: {enabled: false}"
CONFIG = """
version: 1
name: mine
stages: {%s}
matrix: {stages: [%s], axes: {dtype: [bfloat16, float16], tensor_parallel_size: [1, 64]}}
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def in_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path.parent / "home"))


def answering(*answers: str, slowdown: float = 0.0) -> Ends:
    found = measured(slowdown=slowdown)
    return replace(found, files={**found.files, "greedy.json": {"answers": [answer.split() for answer in answers]}})


class Servers(MemoryEngine):
    """The measurement of a server ends as scripted for its data type."""

    def __init__(self, ends: Mapping[str, Ends]) -> None:
        super().__init__()
        self.ends = ends

    async def run(self, program: Program, *, stop: anyio.Event | None = None) -> Outcome:
        if program.name == "measure":
            dtypes = [word.partition("=")[2] for word in self.served[-1].argv if word.startswith("--dtype=")]
            self.on("measure", self.ends.get(dtypes[-1] if dtypes else "", answering("a b c d", "e f")))
        return await super().run(program, stop=stop)


async def run(folder: Path, ends: Mapping[str, Ends], *, stages: str = "streaming, performance") -> Report:
    made = repository(folder, config=CONFIG % (ENABLED, stages))
    return await run_pipeline(made, engine=Servers(ends), matrix=True)


@pytest.mark.anyio
async def test_every_server_is_measured_and_compared_with_the_first(tmp_path: Path) -> None:
    slow = answering("a b x d", "e f", slowdown=1.0)
    report = await run(tmp_path, {"float16": slow})
    assert [stage.name for stage in report.stages] == [
        "streaming",
        "performance@reference",
        "performance@bfloat16",
        "streaming@bfloat16",
        "performance@float16",
        "streaming@float16",
    ]
    assert report.verdict is Verdict.PASSED
    assert all("64 shards" in reason for reason in report.skipped.values())
    assert "performance@bfloat16-tp64" in report.skipped
    reference, same, other = matrix.rows(report.stages)
    assert (reference.server, reference.output_tokens_per_s, reference.same_answers) == ("reference", 800.0, 1.0)
    assert (same.same_answers, same.same_prefix, same.memory_bytes) == (1.0, 1.0, 2.0**30)
    assert (other.output_tokens_per_s, other.tpot_ms, other.same_answers, other.same_prefix) == (400.0, 20.0, 0.5, 0.75)


@pytest.mark.anyio
async def test_the_table_is_shown_and_is_part_of_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = await run(tmp_path, {"float16": answering("a b x d", "e f", slowdown=1.0)})
    progress.close(Console(width=140), report, "/runs/1")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["reference", "800.0", "50.0", "10.0", "1024", "-", "100%", "100%"] in lines
    assert ["float16", "400.0", "100.0", "20.0", "1024", "-", "50%", "75%"] in lines
    rows: list[dict[str, Any]] = document.summary(report, "/runs/1")["matrix"]
    assert [row["server"] for row in rows] == ["reference", "bfloat16", "float16"]
    read_again = document.from_json(json.loads(json.dumps(document.to_json(report))))
    assert matrix.rows(read_again.stages) == matrix.rows(report.stages)


@pytest.mark.anyio
async def test_without_performance_in_the_matrix_images_are_compared_as_ever(tmp_path: Path) -> None:
    report = await run(tmp_path, {}, stages="streaming")
    assert "performance" in [stage.name for stage in report.stages]
    assert not matrix.rows(report.stages)
    assert "matrix" not in document.summary(report, "")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("ends", "verdict", "said"),
    [
        (Ends(exit_code=3, log="the server cannot be measured: no answer"), Verdict.ERRORED, "no answer"),
        (Ends(files={"measurement.json": "{", "greedy.json": "[]"}), Verdict.ERRORED, "after 0 of 3 rounds"),
        (replace(measured(), files={}, timed_out=True, exit_code=124), Verdict.ERRORED, "timed out"),
    ],
)
async def test_a_server_that_cannot_be_measured_is_errored_in_its_row(
    tmp_path: Path, ends: Ends, verdict: Verdict, said: str
) -> None:
    report = await run(tmp_path, {"bfloat16": ends})
    stages = {stage.name: stage for stage in report.stages}
    assert stages["performance@bfloat16"].verdict is verdict
    assert said in stages["performance@bfloat16"].message
    assert stages["performance@float16"].verdict is Verdict.PASSED
    row = next(row for row in matrix.rows(report.stages) if row.server == "bfloat16")
    assert (row.output_tokens_per_s, row.same_answers) == (None, None)


@pytest.mark.anyio
async def test_a_pipeline_of_ones_own_can_measure_a_server(tmp_path: Path) -> None:
    body = (
        "from vllm_ci import Pipeline, Report\n"
        "async def pipeline(ci: Pipeline) -> Report:\n"
        "    image = await ci.build()\n"
        "    async with ci.serve(image) as server:\n"
        '        await ci.test(server, "performance")\n'
        "    return ci.report()\n"
    )
    report = await run_pipeline(repository(tmp_path, body), engine=MemoryEngine())
    (stage,) = report.stages
    assert (stage.name, stage.verdict, len(stage.cases)) == ("performance", Verdict.PASSED, 3)


@given(st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=5))
def test_a_server_agrees_with_itself(answers: list[list[int]]) -> None:
    found = matrix.agreement(answers, answers)
    assert found is None if not any(answers) else found == matrix.Agreement(same=1.0, prefix=1.0)


def test_answers_to_other_prompts_are_not_compared() -> None:
    assert matrix.agreement([["a"]], [["a"], ["b"]]) is None
