"""A pipeline of the user's own, on the memory engine: what it runs, and what is said of what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from standin.repository import dirty, repository
from vllm_ci import (
    Commit,
    ConfigError,
    Ends,
    EngineError,
    MemoryEngine,
    Pipeline,
    Report,
    Source,
    UsageError,
    Verdict,
    fails,
    kills_the_server,
    open_pipeline,
    passes,
    run_pipeline,
    times_out,
)
from vllm_ci.domain.errors import FailedError
from vllm_ci.domain.image import ImageRef
from vllm_ci.evidence.predicates import test_result
from vllm_ci.pipeline import default

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("in_project")]

HEAD = "from vllm_ci import Pipeline, Report, Server, Image, stage\n"
BODY = """
async def pipeline(ci: Pipeline) -> Report:
    image = await ci.build()
    async with ci.serve(image) as server:
        await ci.test(server, "integration", "streaming")
    return ci.report()
"""
MATRIX = "version: 1\nmatrix: {stages: [streaming], axes: {dtype: [bfloat16], tensor_parallel_size: [1, 64]}}\n"


def verdicts(report: Report) -> dict[str, str]:
    return {stage.name: stage.verdict.value for stage in report.stages}


async def run(folder: Path, pipeline: str, engine: MemoryEngine | None = None, **options: object) -> Report:
    repository(folder, HEAD + pipeline)
    return await run_pipeline(folder, engine=engine or MemoryEngine(), **options)  # type: ignore[arg-type]


async def problem(folder: Path, body: str) -> str:
    report = await run(folder, f"async def pipeline(ci: Pipeline) -> Report:\n{body}")
    assert report.verdict is Verdict.ERRORED
    assert report.problem is not None
    assert report.problem.step == "pipeline"
    return report.problem.cause


async def test_the_example_of_the_documentation_builds_serves_and_tests(tmp_path: Path) -> None:
    engine = MemoryEngine()
    report = await run(tmp_path, BODY, engine)
    assert report.verdict is Verdict.PASSED
    assert verdicts(report) == {"integration": "passed", "streaming": "passed"}
    assert engine.programs == ["build", "model", "integration", "streaming"]
    assert engine.stopped == ["vllm"]
    assert report.commit is not None
    assert report.hardware["cores"] == 4


async def test_a_report_of_the_memory_engine_satisfies_no_gate(tmp_path: Path) -> None:
    report = await run(tmp_path, BODY)
    assert report.double
    with pytest.raises(FailedError, match="double"):
        test_result.check(report, ImageRef(repository="mine", digest=report.image.digest if report.image else ""))


async def test_running_it_leaves_the_work_tree_clean(tmp_path: Path) -> None:
    repository(tmp_path, f"{HEAD}import beside\n{BODY}", ci__beside="VALUE = 1\n")
    assert (await run_pipeline(tmp_path, engine=MemoryEngine())).verdict is Verdict.PASSED
    assert dirty(tmp_path) == ""


@pytest.mark.slow
async def test_the_default_pipeline_runs_every_configured_stage_and_the_matrix(tmp_path: Path) -> None:
    repository(tmp_path, config=MATRIX)
    engine = MemoryEngine()
    report = await run_pipeline(tmp_path, engine=engine, matrix=True)
    names = ["unit", "integration", "streaming", "security", "streaming@bfloat16"]
    assert [stage.name for stage in report.stages] == names
    assert report.verdict is Verdict.PASSED, report
    assert "64 shards" in report.skipped["streaming@bfloat16-tp64"]
    assert len(engine.served) == 2


async def test_a_server_of_the_matrix_that_does_not_start_costs_its_own_rows_only(tmp_path: Path) -> None:
    repository(tmp_path, config=MATRIX)
    engine = MemoryEngine().on("vllm", Ends(), Ends(exit_code=1, log="ValueError: no such dtype"))
    report = await run_pipeline(tmp_path, engine=engine, matrix=True)
    assert verdicts(report)["streaming"] == "passed"
    assert verdicts(report)["streaming@bfloat16"] == "errored"
    assert report.problem is None


async def test_an_image_that_cannot_be_built_is_the_run_s_problem(tmp_path: Path) -> None:
    engine = MemoryEngine().on("build", Ends(exit_code=3, log="vllm-ci: the wheel x is damaged\n  do:  lock it again"))
    report = await run(tmp_path, BODY, engine)
    assert report.problem is not None
    assert (report.problem.step, report.problem.cause) == ("build", "the wheel x is damaged")
    assert report.verdict is Verdict.ERRORED


async def test_what_cannot_be_built_at_all_is_a_configuration_error(tmp_path: Path) -> None:
    engine = MemoryEngine().on("build", Ends(exit_code=2, log="vllm-ci: image.spec: there is no spec cqu"))
    with pytest.raises(ConfigError, match="there is no spec cqu"):
        await run(tmp_path, BODY, engine)


async def test_a_server_that_does_not_start_leaves_what_ran_beside_it(tmp_path: Path) -> None:
    repository(tmp_path)
    report = await run_pipeline(tmp_path, engine=MemoryEngine().on("vllm", times_out("INFO loading")))
    assert report.problem is not None
    assert report.problem.step == "server"
    assert verdicts(report) == {"unit": "passed", "integration": "errored", "streaming": "errored", "security": "errored"}


@pytest.mark.slow
async def test_a_server_that_dies_during_a_stage_is_said_with_its_log(tmp_path: Path) -> None:
    report = await run(tmp_path, BODY, MemoryEngine().on("integration", kills_the_server("out of memory")))
    assert "died during the stage" in report.stages[0].message
    assert "out of memory" in report.stages[0].message
    assert report.verdict is Verdict.ERRORED
    assert report.stages[1].verdict is Verdict.PASSED, "the next stage runs on a new server"


@pytest.mark.slow
async def test_endings_are_taken_one_after_another(tmp_path: Path) -> None:
    repository(tmp_path)
    engine = MemoryEngine().on("integration", fails("test_a", "no answer"), passes("test_a"), EngineError("no more"))
    found = []
    for _ in range(3):
        async with open_pipeline(tmp_path, engine=engine) as ci:
            async with ci.serve(await ci.build()) as server:
                (result,) = await ci.test(server, "integration")
            found.append(result.verdict)
    # The second has only one of the 140 cases that the suite promises, and the third raised.
    assert found == [Verdict.FAILED, Verdict.ERRORED, Verdict.ERRORED]


async def test_stages_that_the_command_line_leaves_out_are_not_run(tmp_path: Path) -> None:
    engine = MemoryEngine()
    report = await run(tmp_path, BODY, engine, stages=("streaming",))
    assert verdicts(report) == {"streaming": "passed"}
    assert "integration" not in engine.programs


async def test_a_stage_that_was_asked_for_and_is_not_in_the_pipeline_is_errored(tmp_path: Path) -> None:
    report = await run(tmp_path, BODY, stages=("security", "streaming"))
    assert verdicts(report) == {"streaming": "passed", "security": "errored"}


@pytest.mark.slow
async def test_announced_stages_that_never_ran_are_errored(tmp_path: Path) -> None:
    body = """
async def pipeline(ci: Pipeline) -> Report:
    ci.expect("integration", "security")
    async with ci.serve(await ci.build()) as server:
        await ci.test(server, "integration")
    return ci.report()
"""
    report = await run(tmp_path, body)
    assert verdicts(report) == {"integration": "passed", "security": "errored"}
    assert report.stages[1].message == "not run"


@pytest.mark.slow
async def test_a_second_server_has_rows_of_its_own(tmp_path: Path) -> None:
    body = """
async def pipeline(ci: Pipeline) -> Report:
    image = await ci.build()
    for name in ("", "second"):
        async with ci.serve(image, name=name) as server:
            await ci.test(server, "integration")
    return ci.report()
"""
    assert verdicts(await run(tmp_path, body)) == {"integration": "passed", "integration@second": "passed"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "line", "said"),
    [
        ("    ci.build()\n    return ci.report()\n", 3, "ci.build() was not awaited"),
        ("    image = ci.build()\n    async with ci.serve(image): pass\n", 4, "ci.serve() got a coroutine"),
        ("    async with ci.serve(None): pass\n", 3, "ci.serve() got nothing (None)"),
        ("    await ci.test(ci.serve(await ci.build()), 'unit')\n", 3, "a server that was not started"),
        ("    await ci.test(await ci.build(), 'integration')\n", 3, "the stage integration needs a server"),
        ("    await ci.test(await ci.build(), 'unti')\n", 3, "unknown stage: unti"),
        ("    await ci.test(await ci.build(), 7)\n", 3, "the argument of ci.test() is not a stage"),
        ("    await ci.build()\n", 2, "the pipeline returned nothing"),
        ("    await ci.build()\n    return ci.report()\n", 2, "the pipeline ran no stage"),
        ("    await ci.build()\n    return 'fine'\n", 2, "the pipeline returned a str"),
        ("    import dataclasses\n    return dataclasses.replace(ci.report(), stages=())\n", 2, "not created by ci.report()"),
        ("    image = await ci.build()\n    for _ in '12':\n        await ci.test(image, 'unit')\n", 5, "a second time"),
        ("    raise KeyError('x')\n", 3, "KeyError: 'x'"),
        ("    raise SystemExit(0)\n", 3, "SystemExit: 0"),
        ("    async def leave(): exit(0)\n    await ci.together(leave())\n", 3, "SystemExit: 0"),
        ("    await (await ci.build()).run('true', secrets=('NOT_SET_ANYWHERE',))\n", 3, "NOT_SET_ANYWHERE"),
    ],
)
async def test_what_is_wrong_is_said_with_the_user_s_line(tmp_path: Path, body: str, line: int, said: str) -> None:
    cause = await problem(tmp_path, body)
    assert cause.startswith(f"ci/pipeline.py:{line}: "), cause
    assert said in cause


async def test_the_log_of_an_error_in_the_pipeline_is_its_traceback_from_the_user_s_line_on(tmp_path: Path) -> None:
    repository(tmp_path, f"{HEAD}async def pipeline(ci):\n    return 1 / 0\n")
    await run_pipeline(tmp_path, engine=MemoryEngine(), report_dir=tmp_path / "runs")
    log = (tmp_path / "runs" / "latest" / "logs" / "pipeline.log").read_text()
    assert "return 1 / 0" in log
    assert "vllm_ci/pipeline" not in log


async def test_an_error_inside_a_task_group_is_told_like_any_other(tmp_path: Path) -> None:
    body = "    import asyncio\n    async with asyncio.TaskGroup() as group:\n        group.create_task(ci.test(0, 'unit'))\n"
    assert (await problem(tmp_path, body)).startswith("ci/pipeline.py:5: ci.test() got int 0")


async def test_a_failed_assertion_of_the_pipeline_is_a_failed_row(tmp_path: Path) -> None:
    body = (
        "async def pipeline(ci):\n    image = await ci.build()\n    assert image.tags == ('other',)\n    return ci.report()\n"
    )
    report = await run(tmp_path, body)
    assert report.verdict is Verdict.FAILED
    assert verdicts(report) == {"pipeline": "failed"}
    assert report.stages[0].message == "ci/pipeline.py:4: assert image.tags == ('other',)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nothing_of_that_name\n", "ci/pipeline.py:1: ModuleNotFoundError"),
        ("x = 1\ndef pipeline(:\n", "ci/pipeline.py:2: SyntaxError"),
        ("x = 1\nraise SystemExit(0)\n", "ci/pipeline.py:2: SystemExit: 0"),
        ("x = 1\n", "ci/pipeline.py:1: function `pipeline` not found"),
        ("\ndef pipeline(ci):\n    pass\n", "ci/pipeline.py:2: `pipeline` is not an async function"),
        ("async def pipeline(a, b):\n    pass\n", "ci/pipeline.py:1: `pipeline` does not take one argument"),
        ("from vllm_ci import stage\n@stage\nasync def unit(s): ...\n", "ci/pipeline.py:2: a stage cannot be called unit"),
        ("from vllm_ci import stage\n@stage\ndef smoke(s): ...\n", "ci/pipeline.py:2: the stage smoke is not async"),
    ],
)
async def test_a_file_that_is_no_pipeline_is_refused_before_anything_is_built(tmp_path: Path, text: str, said: str) -> None:
    repository(tmp_path, text)
    engine = MemoryEngine()
    with pytest.raises(ConfigError) as caught:
        await run_pipeline(tmp_path, engine=engine)
    assert str(caught.value).startswith(said)
    assert "Traceback" not in str(caught.value)
    assert engine.programs == []


async def test_pipeline_in_the_configuration_names_another_file_or_none(tmp_path: Path) -> None:
    repository(tmp_path, "raise SystemError\n", config="version: 1\npipeline: other/mine.py\n", other__mine=HEAD + BODY)
    assert set(verdicts(await run_pipeline(tmp_path, engine=MemoryEngine()))) == {"integration", "streaming"}
    (tmp_path / "vllm-ci.yaml").write_text("version: 1\npipeline: default\n")
    assert "unit" in verdicts(await run_pipeline(tmp_path, engine=MemoryEngine()))
    (tmp_path / "vllm-ci.yaml").write_text("version: 1\npipeline: gone.py\n")
    with pytest.raises(ConfigError, match=r"file not found: .*gone\.py"):
        await run_pipeline(tmp_path, engine=MemoryEngine())
    (tmp_path / "vllm-ci.yaml").write_text("version: 1\npipeline: ../gone\n")
    with pytest.raises(UsageError, match=r"vllm-ci\.yaml:2"):
        await run_pipeline(tmp_path, engine=MemoryEngine())


async def test_steps_can_be_called_one_by_one_as_in_a_notebook(tmp_path: Path) -> None:
    repository(tmp_path)
    async with open_pipeline(tmp_path, engine="memory") as ci:
        image = await ci.build()
        async with ci.serve(image) as server:
            (result,) = await ci.test(server, "streaming")
        assert result.verdict is Verdict.PASSED
        assert ci.report().verdict is Verdict.PASSED


async def test_a_pipeline_can_be_given_as_a_function(tmp_path: Path) -> None:
    repository(tmp_path, "raise SystemError\n", config="version: 1\npipeline: default\n")

    async def mine(ci: Pipeline) -> Report:
        await ci.together(default.inside(ci, await ci.build()))
        return ci.report()

    assert verdicts(await run_pipeline(tmp_path, engine=MemoryEngine(), pipeline=mine)) == {"unit": "passed"}


async def test_commit_and_files_can_be_given_where_git_cannot_be_asked(tmp_path: Path) -> None:
    (tmp_path / "deep" / "ci").mkdir(parents=True)
    (tmp_path / "deep" / "vllm-ci.yaml").write_text("version: 1\n")
    (tmp_path / "deep" / "ci" / "pipeline.py").write_text(HEAD + BODY)
    engine = MemoryEngine()
    files = engine.directory(tmp_path)
    source = Source(commit=Commit(sha="a" * 40), checkout=files, project=files)
    report = await run_pipeline(tmp_path / "deep", engine=engine, source=source)
    assert (report.verdict, report.commit) == (Verdict.PASSED, source.commit)
    assert "a" * 40 in engine.ran[0].argv


async def test_secrets_that_a_command_is_given_are_hidden_in_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    repository(tmp_path)
    engine = MemoryEngine().on("mine", Ends(log="the token is s3cret"))
    async with open_pipeline(tmp_path, engine=engine) as ci:
        outcome = await (await ci.build()).run("mine", name="mine", secrets=("TOKEN=MY_TOKEN",))
    assert outcome.log == "the token is ***"


async def test_a_configuration_without_stages_says_that_nothing_was_tested(tmp_path: Path) -> None:
    off = "".join(f"  {name}: {{enabled: false}}\n" for name in ("unit", "integration", "streaming", "security"))
    repository(tmp_path, config=f"stages:\n{off}")
    report = await run_pipeline(tmp_path, engine=MemoryEngine())
    assert report.verdict is Verdict.ERRORED
    assert report.problem is not None
    assert report.problem.cause == "the pipeline ran no stage"


async def test_modules_beside_a_pipeline_are_those_of_the_same_project(tmp_path: Path) -> None:
    body = "import beside\n@stage(name=beside.NAME, needs_server=False)\nasync def it(image): ...\n"
    body += "async def pipeline(ci):\n    await ci.test(await ci.build(), it)\n    return ci.report()\n"
    for name in ("one", "two"):
        repository(tmp_path / name, HEAD + body, ci__beside=f"NAME = {name!r}\n")
        assert verdicts(await run_pipeline(tmp_path / name, engine=MemoryEngine())) == {name: "passed"}
