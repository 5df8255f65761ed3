"""Stages of the user's own in YAML: tests and commands, in the report, in the schema and in policies."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from standin.repository import repository
from unit.pipeline.own_stages import CONFIG, HEAD, only
from vllm_ci import (
    Case,
    CaseStatus,
    Commit,
    ConfigError,
    Ends,
    MemoryEngine,
    Report,
    StageContext,
    StageResult,
    Verdict,
    fails,
    passes,
    run_pipeline,
    times_out,
)
from vllm_ci.config import computed, load, schema
from vllm_ci.domain.image import ImageRef
from vllm_ci.engines.host import HostEngine
from vllm_ci.evidence.predicates import test_result
from vllm_ci.pipeline.record import RunRecord
from vllm_ci.report import ctrf, document, html, junit
from vllm_ci.stages import STAGES, stage_of
from vllm_ci.stages.running import Runner

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("in_project")]


async def test_tests_of_one_s_own_run_against_the_server_with_the_fixtures(tmp_path: Path) -> None:
    engine = MemoryEngine().on("smoke", passes("a", "b"))
    report = await only(tmp_path, "{pytest: tests/smoke, promises: 2, timeout_s: 7, env: {A: b}}", engine)
    assert report.verdict is Verdict.PASSED
    program = engine.ran[-1]
    assert ("vllm_ci.suites.plugin" in program.argv, program.image) == (True, None)
    assert "{in.source}/tests/smoke" in program.argv
    assert (program.timeout_s, program.env["A"], list(program.needs)) == (7, "b", ["vllm"])


async def test_fewer_cases_than_promised_is_errored(tmp_path: Path) -> None:
    report = await only(tmp_path, "{pytest: t, promises: 3}", MemoryEngine().on("smoke", passes("a", "b")))
    assert report.verdict is Verdict.ERRORED
    assert "2 cases, but at least 3 are required" in report.stages[0].message


@pytest.mark.parametrize(
    ("ending", "verdict", "said"),
    [
        (Ends(), Verdict.PASSED, ""),
        (Ends(exit_code=1, log="one\nE501 line too long"), Verdict.FAILED, "exit code 1: E501 line too long"),
        (Ends(exit_code=127, log="ruff was not found"), Verdict.ERRORED, "ruff was not found"),
        (Ends(exit_code=137), Verdict.ERRORED, "killed by signal 9"),
        (times_out(), Verdict.ERRORED, "timed out"),
    ],
)
async def test_a_command_is_one_case_by_its_exit_code(tmp_path: Path, ending: Ends, verdict: Verdict, said: str) -> None:
    engine = MemoryEngine().on("smoke", ending)
    report = await only(tmp_path, "{run: [ruff, check, .], in: image}", engine)
    assert report.verdict is verdict
    (case,) = report.stages[0].cases
    assert case.name == "ruff check ."
    assert said in case.message
    assert engine.ran[-1].image is not None
    assert engine.served == [], "a command needs no server unless it says so"


async def test_a_command_that_needs_the_server_is_told_where_it_is(tmp_path: Path) -> None:
    engine = MemoryEngine()
    assert (await only(tmp_path, "{run: [./load], server: true}", engine)).verdict is Verdict.PASSED
    program = engine.ran[-1]
    assert program.env["VLLM_URL"] == "{url.vllm}"
    assert program.env["VLLM_MODEL"] == "tiny"
    assert "vllm" in program.needs


async def test_pytest_inside_the_image_is_laid_out_there(tmp_path: Path) -> None:
    engine = MemoryEngine()
    assert (await only(tmp_path, "{pytest: [t], in: image}", engine)).verdict is Verdict.PASSED
    assert engine.programs == ["build", "tools", "smoke"]
    assert set(engine.ran[-1].inputs) == {"tools", "image", "source"}


@pytest.mark.slow
async def test_own_stages_run_in_the_matrix_and_by_name(tmp_path: Path) -> None:
    matrix = "matrix: {stages: [smoke], axes: {dtype: [bfloat16]}}\n"
    repository(tmp_path, config=f"{CONFIG}  smoke: {{pytest: t}}\n  lint: {{run: ['true']}}\n{matrix}")
    report = await run_pipeline(tmp_path, engine=MemoryEngine(), matrix=True)
    assert [each.name for each in report.stages] == ["smoke", "lint", "smoke@bfloat16"]
    named = await run_pipeline(tmp_path, engine=MemoryEngine(), stages=("lint",))
    assert [each.name for each in named.stages] == ["lint"]


async def test_every_view_of_the_report_has_own_stages(tmp_path: Path) -> None:
    report = await only(tmp_path, "{pytest: t}", MemoryEngine().on("smoke", fails("t/test_a.py::test_it", "no answer")))
    assert report.verdict is Verdict.FAILED
    assert document.from_json(json.loads(json.dumps(document.to_json(report)))).stages[0].name == "smoke"
    assert 'testsuite name="smoke"' in junit.from_report(report)
    assert ctrf.from_report(report)["results"]["tests"][0]["suite"]
    assert "no answer" in html.from_report(report)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("stages:\n  smoke: {pytset: t}\n", 2, "needs one of `pytest`, `run` and `use`"),
        ("stages:\n  intgration: {timeout_s: 5}\n", 2, "did you mean integration?"),
        ("stages:\n  unit:\n    run: ['true']\n", 3, "unknown key stages.unit.run"),
        ("stages:\n  build: {run: ['true']}\n", 2, "step of every run"),
        ("stages:\n  Smoke: {run: ['true']}\n", 2, "lower-case"),
        ("stages:\n  smoke:\n    run: ['true']\n    timout_s: 3\n", 4, "did you mean timeout_s?"),
        ("stages:\n  smoke:\n    run: ['true']\n    pytest: t\n", 2, "it has pytest and run"),
        ("stages:\n  smoke:\n    run: ['true']\n    secrets: [PATH]\n", 4, "another name"),
        ("stages:\n  smoke: {run: ['true'], promises: 2}\n", 2, "a command is one case"),
        ("stages:\n  smoke: {run: ['true']}\nmatrix:\n  stages: [smoek]\n", 4, "did you mean smoke?"),
        (
            "stages:\n  smoke: {run: ['true']}\nrelease: {channels: {staging: {tests: {smoek: passed}}}}\n",
            3,
            "did you mean smoke?",
        ),
    ],
)
def test_what_is_wrong_with_a_stage_is_said_with_its_line_and_the_nearest_name(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    path = tmp_path / "vllm-ci.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load.load(path)
    assert f"vllm-ci.yaml:{line}" in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["{pytest: t}", "{run: [a], in: image, server: true}", "{use: x}"])
def test_the_schema_takes_own_stages(stage: str) -> None:
    import yaml

    jsonschema.validate(yaml.safe_load(f"stages: {{smoke: {stage}}}"), schema.schema())


@pytest.mark.slow
@pytest.mark.parametrize(
    "stages", ["{intgration: {timeout_s: 5}}", "{smoke: {}}", "{Smoke: {run: [a]}}", "{smoke: {pytset: t}}"]
)
def test_the_schema_refuses_mistyped_stages(stages: str) -> None:
    import yaml

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(f"stages: {stages}"), schema.schema())


def test_a_channel_may_require_stages_of_one_s_own(tmp_path: Path) -> None:
    channels = "release: {channels: {staging: {tests: {smoke: passed, load-test: passed}}}}\n"
    pipeline = f"{HEAD}@stage\nasync def load_test(server): ...\nasync def pipeline(ci): ...\n"
    repository(tmp_path, pipeline, config=f"stages: {{smoke: {{run: [a]}}}}\n{channels}")
    loaded = load.load(tmp_path / "vllm-ci.yaml")
    assert set(loaded.config.release.channels["staging"].tests or ()) == {"smoke", "load-test"}
    assert loaded.project("vllm-ci.yaml").stages[-1].name == "smoke"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "verdict"),
    [
        (["python", "-c", "import os; assert os.path.exists('vllm-ci.yaml')"], Verdict.PASSED),
        (["python", "-c", "raise SystemExit('no good')"], Verdict.FAILED),
        (["ruff", "--version"], Verdict.PASSED),
        (["no-such-command-anywhere"], Verdict.ERRORED),
    ],
)
async def test_a_command_really_runs_in_the_project_s_directory(tmp_path: Path, command: list[str], verdict: Verdict) -> None:
    (tmp_path / "vllm-ci.yaml").write_text(f"stages: {{smoke: {{run: {json.dumps(command)}}}}}\n")
    spec = load.load(tmp_path / "vllm-ci.yaml").config.stages.specs()["smoke"]
    async with HostEngine() as engine:
        runner = Runner(engine=engine, emit=lambda _: None)
        await runner.run(StageContext(spec=spec, source=engine.directory(tmp_path)))
    assert runner.results["smoke"].verdict is verdict, runner.results


@pytest.mark.slow
async def test_tests_of_one_s_own_really_report_their_cases(tmp_path: Path) -> None:
    (tmp_path / "vllm-ci.yaml").write_text("stages: {smoke: {pytest: t, server: false}}\n")
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "test_a.py").write_text("def test_one(): pass\ndef test_two(): assert 0\n")
    spec = load.load(tmp_path / "vllm-ci.yaml").config.stages.specs()["smoke"]
    async with HostEngine() as engine:
        runner = Runner(engine=engine, emit=lambda _: None)
        await runner.run(StageContext(spec=spec, source=engine.directory(tmp_path)))
    found = {case.name: case.status.value for case in runner.results["smoke"].cases}
    assert found == {"t/test_a.py::test_one": "passed", "t/test_a.py::test_two": "failed"}


def test_evidence_of_own_stages_satisfies_a_policy_that_requires_them(tmp_path: Path) -> None:
    commit = Commit(sha="a" * 40)
    image = ImageRef(repository="mine", digest="sha256:" + "b" * 64)
    case = Case(name="it", status=CaseStatus.PASSED)
    stage = StageResult(name="smoke", verdict=Verdict.PASSED, seconds=1.0, cases=(case,))
    report = Report(commit=commit, image=image, engine="host", stages=(stage,), started_at="2026-11-26T00:00:00+00:00")
    (tmp_path / "vllm-ci.yaml").write_text(
        "stages: {smoke: {run: [a]}}\nrelease: {channels: {staging: {tests: {smoke: passed}, sbom: false}}}\n"
    )
    loaded = load.load(tmp_path / "vllm-ci.yaml").config
    channel = loaded.release.channels["staging"].domain("staging", image="vllm", stages=loaded.stages.enabled())
    (found,) = (test_result.read(each) for each in test_result.statements(report, image, b"{}"))
    assert found.verdict in channel.policy.tests[found.stage]


def test_a_channel_requires_every_enabled_stage_by_default_also_those_of_one_s_own(tmp_path: Path) -> None:
    (tmp_path / "vllm-ci.yaml").write_text("stages: {smoke: {run: [a]}, slow: {run: [b], enabled: false}}\n")
    loaded = load.load(tmp_path / "vllm-ci.yaml").config
    channel = loaded.release.channels["staging"].domain("staging", image="vllm", stages=loaded.stages.enabled())
    assert list(channel.policy.tests) == ["unit", "integration", "streaming", "security", "smoke"]


def test_the_configuration_shows_own_stages_and_the_pipeline_that_was_found(tmp_path: Path) -> None:
    repository(tmp_path, "async def pipeline(ci): ...\n", config="stages: {lint: {run: [a], in: image}}\n")
    loaded = load.load(tmp_path / "vllm-ci.yaml")
    shown = {key: (value, origin) for key, value, origin in loaded.values()}
    assert shown["stages.lint.in"] == ("image", f"{tmp_path / 'vllm-ci.yaml'}:1")
    found = {each.key: (each.value, each.reason) for each in computed.values(loaded)}
    assert found["pipeline"] == ("ci/pipeline.py", "found next to vllm-ci.yaml")


def test_every_built_in_stage_is_found_by_its_spec() -> None:
    from vllm_ci.config.stages import StagesConfig

    assert {name: stage_of(spec) for name, spec in StagesConfig().specs().items()} == STAGES
    assert RunRecord(emit=lambda _: None).run().report.verdict is Verdict.ERRORED
