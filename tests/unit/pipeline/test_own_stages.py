"""Stages of the user's own: in YAML, in Python, from an installed package."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import jsonschema
import pytest

from standin.repository import repository
from vllm_ci import (
    Case,
    CaseStatus,
    Commit,
    ConfigError,
    Ends,
    MemoryEngine,
    Outcome,
    Program,
    Report,
    StageContext,
    StageResult,
    Verdict,
    fails,
    kills_the_server,
    passes,
    run_pipeline,
    times_out,
    verdict_of,
)
from vllm_ci.config import computed, load, schema
from vllm_ci.domain.image import ImageRef
from vllm_ci.engines.host import HostEngine
from vllm_ci.evidence.predicates import test_result
from vllm_ci.pipeline.record import RunRecord
from vllm_ci.report import ctrf, document, html, junit
from vllm_ci.stages import STAGES, installed, running, stage_of
from vllm_ci.stages.running import Runner

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("in_project")]

CONFIG = """
version: 1
stages:
  unit: {enabled: false}
  integration: {enabled: false}
  streaming: {enabled: false}
  security: {enabled: false}
"""
HEAD = "from vllm_ci import *\n"


async def only(folder: Path, stage: str, engine: MemoryEngine | None = None, **options: object) -> Report:
    """A run of the default pipeline with one stage, ``smoke``, and none of ours."""
    repository(folder, config=f"{CONFIG}  smoke: {stage}\n")
    report = await run_pipeline(folder, engine=engine or MemoryEngine(), **options)  # type: ignore[arg-type]
    assert [each.name for each in report.stages] == ["smoke"]
    return report


async def in_python(folder: Path, stage: str, target: str = "server", **options: object) -> StageResult:
    """The result of a stage ``smoke`` that the user's pipeline defines."""
    body = f"""
async def pipeline(ci):
    image = await ci.build()
    async with ci.serve(image) as server:
        await ci.test({target}, smoke)
    return ci.report()
"""
    repository(folder, f"{HEAD}{stage}{body}")
    report = await run_pipeline(folder, engine=MemoryEngine(answers={"/health": {"up": True}}), **options)  # type: ignore[arg-type]
    assert report.problem is None, report.problem
    (result,) = report.stages
    return result


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


@pytest.mark.parametrize("stage", ["{pytest: t}", "{run: [a], in: image, server: true}", "{use: x}"])
def test_the_schema_takes_own_stages(stage: str) -> None:
    import yaml

    jsonschema.validate(yaml.safe_load(f"stages: {{smoke: {stage}}}"), schema.schema())


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


async def test_a_function_that_returns_passes(tmp_path: Path) -> None:
    code = """
@stage
async def smoke(server: Server) -> None:
    async with server.client() as http:
        assert (await http.get("/health")).json() == {"up": True}
"""
    result = await in_python(tmp_path, code)
    assert result.verdict is Verdict.PASSED
    assert [case.name for case in result.cases] == ["smoke"]


@pytest.mark.parametrize(
    ("body", "verdict", "said"),
    [
        ("    assert server.model == 'other', 'wrong model'", Verdict.FAILED, "ci/pipeline.py:4: wrong model"),
        ("    assert 1 == 2", Verdict.FAILED, "ci/pipeline.py:4: assert 1 == 2"),
        ("    {}['x']", Verdict.ERRORED, "ci/pipeline.py:4: KeyError: 'x'"),
        ("    raise SystemExit(0)", Verdict.ERRORED, "ci/pipeline.py:4: SystemExit: 0"),
        ("    return 'yes'", Verdict.ERRORED, "ci/pipeline.py:2: the stage returned str"),
        ("    return []", Verdict.ERRORED, ""),
        ("    import anyio; await anyio.sleep(60)", Verdict.ERRORED, "timed out after 0.05 s"),
        ("    return [Case(name='a', status=CaseStatus.FAILED, message='no')]", Verdict.FAILED, "no"),
        ("    return Case(name='a', status=CaseStatus.SKIPPED, message='no')", Verdict.ERRORED, "no"),
        ("    return StageResult(name='x', verdict=Verdict.PASSED, seconds=0.0)", Verdict.ERRORED, ""),
        ("    return await server.run('true')", Verdict.PASSED, ""),
    ],
)
async def test_what_a_function_returns_or_raises_is_its_verdict(tmp_path: Path, body: str, verdict: Verdict, said: str) -> None:
    result = await in_python(tmp_path, f"@stage(timeout_s=0.05)\nasync def smoke(server):\n{body}\n")
    assert result.verdict is verdict, result
    assert result.name == "smoke"
    assert said in "".join(case.message for case in result.cases)


async def test_a_function_may_look_at_the_image(tmp_path: Path) -> None:
    code = """
@stage(needs_server=False)
async def smoke(image: Image):
    return await image.run("python", "-m", "mine", name="mine")
"""
    assert (await in_python(tmp_path, code, "image")).verdict is Verdict.PASSED


async def test_an_object_with_programs_and_result_is_a_stage(tmp_path: Path) -> None:
    code = """
class Smoke:
    name, needs_server, promises = "smoke", True, 1
    def programs(self, context):
        return (Program(name="smoke", argv=("true",)),)
    async def result(self, context, outcomes):
        case = Case(name="it", status=CaseStatus.PASSED if outcomes[0] else CaseStatus.FAILED)
        verdict, message = verdict_of([case])
        return StageResult(name=self.name, verdict=verdict, seconds=0.0, cases=(case,), message=message)
smoke = Smoke()
"""
    assert (await in_python(tmp_path, code)).verdict is Verdict.PASSED


async def test_an_error_in_an_object_of_the_user_s_is_said_with_its_line(tmp_path: Path) -> None:
    code = """
class Smoke:
    name, needs_server = "smoke", True
    def programs(self, context):
        return context.nothing
    async def result(self, context, outcomes): ...
smoke = Smoke()
"""
    result = await in_python(tmp_path, code)
    assert result.verdict is Verdict.ERRORED
    assert result.message.startswith("ci/pipeline.py:6: AttributeError")


async def test_a_stage_in_python_is_chosen_by_its_name(tmp_path: Path) -> None:
    code = "@stage(name='smoke-2')\nasync def smoke(server): ...\n"
    assert (await in_python(tmp_path, code, stages=("smoke-2",))).name == "smoke-2"
    with pytest.raises(ConfigError, match="did you mean smoke-2"):
        await run_pipeline(tmp_path, engine=MemoryEngine(), stages=("smoke2",))


@dataclass(frozen=True)
class Licences:
    """As another package brings it."""

    name: str = "licences"
    needs_server: bool = False

    def programs(self, context: StageContext) -> tuple[Program, ...]:
        return (Program(name="licences", argv=("true",), image=context.image),)

    async def result(self, context: StageContext, outcomes: Sequence[Outcome]) -> StageResult:  # noqa: ARG002
        case = Case(name="all", status=CaseStatus.PASSED)
        return StageResult(name="licences", verdict=verdict_of([case])[0], seconds=0.0, cases=(case,))


LICENCES, NO_STAGE = Licences(), object()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed distribution with entry points, as pip leaves one."""
    folder = tmp_path.parent / f"{tmp_path.name}-packages"
    info = folder / "company_stages-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "company_stages.py").write_text(
        "from dataclasses import replace\n"
        "from unit.pipeline.test_own_stages import LICENCES, NO_STAGE\n"
        "UNIT = replace(LICENCES, name='unit')\n"
    )
    (folder / "company_quits.py").write_text("raise SystemExit(0)\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: company-stages\nVersion: 1.0\n")
    lines = ("licences = company_stages:LICENCES", "broken = company_stages:gone", "odd = company_stages:NO_STAGE")
    (info / "entry_points.txt").write_text(
        "\n".join(
            [
                "[vllm_ci.stages]",
                *lines,
                "shadow = company_stages:UNIT",
                "quits = company_quits:Q",
                "a/../B = company_stages:LICENCES",
                "",
            ]
        )
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "company_stages", raising=False)
    installed._entry_points.cache_clear()
    yield
    installed._entry_points.cache_clear()


@pytest.mark.usefixtures("package")
async def test_a_stage_of_an_installed_package_is_used_by_its_name(tmp_path: Path) -> None:
    engine = MemoryEngine()
    report = await only(tmp_path, "{use: licences}", engine)
    assert report.verdict is Verdict.PASSED
    assert engine.programs == ["build", "licences"]


@pytest.mark.usefixtures("package")
async def test_a_pipeline_may_name_an_installed_stage_without_any_configuration(tmp_path: Path) -> None:
    body = "async def pipeline(ci):\n    await ci.test(await ci.build(), 'licences')\n    return ci.report()\n"
    repository(tmp_path, body)
    report = await run_pipeline(tmp_path, engine=MemoryEngine())
    assert [(stage.name, stage.verdict) for stage in report.stages] == [("licences", Verdict.PASSED)]


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("licence", "did you mean licences?"),
        ("broken", "the stage broken from company-stages cannot be loaded"),
        ("odd", "is not a stage"),
        ("shadow", "cannot be called unit"),
        ("quits", "the stage quits from company-stages cannot be loaded"),
        ("a/../B", "cannot be a stage"),
    ],
)
async def test_a_stage_that_no_package_brings_is_refused_before_the_build(tmp_path: Path, name: str, said: str) -> None:
    repository(tmp_path, config=f"{CONFIG}  smoke: {{use: {name}}}\n")
    engine = MemoryEngine()
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        await run_pipeline(tmp_path, engine=engine)
    assert engine.programs == []


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("name", ["broken", "odd", "shadow", "quits", "a/../B"])
async def test_a_broken_stage_of_a_package_that_only_the_pipeline_names_keeps_what_was_found(tmp_path: Path, name: str) -> None:
    body = f"async def pipeline(ci):\n    await ci.test(await ci.build(), 'licences', {name!r})\n    return ci.report()\n"
    repository(tmp_path, body)
    report = await run_pipeline(tmp_path, engine=MemoryEngine(), report_dir=tmp_path / "runs")
    assert report.verdict is Verdict.ERRORED
    assert report.problem is not None
    assert report.problem.cause.startswith("ci/pipeline.py:2: ")


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


async def test_a_function_is_stopped_with_the_run_and_says_so(tmp_path: Path) -> None:
    from vllm_ci import open_pipeline, stage

    @stage(needs_server=False)
    async def endless(image: object) -> None:  # noqa: ARG001
        await anyio.sleep(600)

    repository(tmp_path)
    async with open_pipeline(tmp_path, engine=MemoryEngine()) as ci, anyio.create_task_group() as group:
        image = await ci.build()
        group.start_soon(ci.test, image, endless)
        await anyio.sleep(0.05)
        result = await ci.record.stop("interrupted by SIGTERM")
    assert result.report.stages[0].message == "interrupted by SIGTERM before it finished"


async def test_a_function_whose_server_dies_is_stopped_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_LAST_WORDS_S", 0.05)
    monkeypatch.setattr(running, "_WATCH_INTERVAL_S", 0.05)
    code = """
@stage
async def smoke(server):
    await server.run("load", name="load")
async def pipeline(ci):
    async with ci.serve(await ci.build()) as server:
        await ci.test(server, smoke)
    return ci.report()
"""
    repository(tmp_path, HEAD + code)
    report = await run_pipeline(tmp_path, engine=MemoryEngine().on("load", kills_the_server("out of memory")))
    assert report.stages[0].message.startswith("the server died during the stage")
    assert "out of memory" in report.stages[0].message


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
