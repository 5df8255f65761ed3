"""A pipeline or a stage that hides what went wrong: the report says it all the same, and nothing that was found is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from standin.repository import repository
from vllm_ci import ConfigError, Ends, MemoryEngine, Report, Verdict, run_pipeline
from vllm_ci.system.vcs import git

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("in_project")]

HEAD = "import asyncio, anyio, sys\nfrom vllm_ci import *\n"
OBJECT = """
class Smoke:
    name, needs_server = "smoke", True
    def programs(self, context):
        {programs}
    {result}
"""
RESULT = "async def result(self, context, outcomes): return 7"


async def ran(folder: Path, steps: str, stage: str = "", **options: object) -> Report:
    """A run of a pipeline that tests ``integration`` and then does ``steps`` while the server runs."""
    body = "\n".join(f"        {line}" for line in steps.splitlines())
    text = f"""{HEAD}{stage}
async def pipeline(ci):
    image = await ci.build()
    async with ci.serve(image) as server:
        await ci.test(server, "integration")
{body}
    return ci.report()
"""
    repository(folder, text)
    report = await run_pipeline(folder, engine=MemoryEngine(), report_dir=folder / "runs", **options)  # type: ignore[arg-type]
    assert json.loads((folder / "runs" / "latest" / "report.json").read_text())["verdict"] == report.verdict.value
    return report


CAUGHT = "try:\n    {call}\nexcept Exception: pass"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "said"),
    [
        ('await ci.test(server, "secuirty")', "unknown stage: secuirty"),
        ('await ci.test(image, "streaming")', "needs a server"),
        ('await ci.test(server, "integration")', "a second time"),
        ('ci.expect("nothing")', "unknown stage: nothing"),
        ("ci.serve(None)", "instead of an image"),
        ('ci.serve(image, name="../../x y")', "a server cannot be called"),
        ('ci.test(server, "streaming"); ci.report()', "was not awaited"),
    ],
)
async def test_a_wrong_call_is_in_the_report_also_when_the_pipeline_catches_its_error(
    tmp_path: Path, call: str, said: str
) -> None:
    report = await ran(tmp_path, CAUGHT.format(call=call))
    assert report.verdict is Verdict.ERRORED
    assert report.problem is not None
    assert said in report.problem.cause


async def test_a_server_that_is_stopped_cannot_be_tested(tmp_path: Path) -> None:
    text = f"""{HEAD}
async def pipeline(ci):
    async with ci.serve(await ci.build()) as server:
        await ci.test(server, "integration")
    await ci.test(server, "streaming")
    return ci.report()
"""
    repository(tmp_path, text)
    report = await run_pipeline(tmp_path, engine=MemoryEngine())
    assert report.problem is not None
    assert "ci/pipeline.py:7: ci.test() got a server that is stopped" in report.problem.line


async def test_a_stage_in_a_pipeline_with_a_name_that_cannot_be_keeps_what_was_found(tmp_path: Path) -> None:
    report = await ran(tmp_path, "@stage\nasync def Smoke(server): pass")
    assert [stage.name for stage in report.stages] == ["integration"]
    assert report.problem is not None
    assert "a stage cannot be called Smoke" in report.problem.line


@pytest.mark.parametrize(
    ("returned", "verdict"),
    [
        (
            "StageResult(name='x', verdict=Verdict.PASSED, seconds=0, cases=(good, Case(name='a', status=CaseStatus.FAILED)))",
            "failed",
        ),
        (
            "StageResult(name='x', verdict=Verdict.PASSED, seconds=0, cases=(good, Case(name='a', status=CaseStatus.ERRORED)))",
            "errored",
        ),
        ("StageResult(name='x', verdict='passed', seconds=0, cases=())", "errored"),
        ("StageResult(name='x', verdict='splendid', seconds=0, cases=(good,))", "errored"),
        ("StageResult(name='x', verdict=Verdict.PASSED, seconds='1', cases=(good,))", "errored"),
        ("Case(name='a', status='failed')", "failed"),
        ("Case(name='a', status='well')", "errored"),
        ("Case(name=3, status=CaseStatus.PASSED)", "errored"),
        ("Case(name='a', status=CaseStatus.PASSED, message=None)", "errored"),
        ("Case(name='a', status=CaseStatus.PASSED, properties={'x': object(), 'n': float('nan'), 3: 4})", "passed"),
        ("Case(name='\\udcff\\x00', status=CaseStatus.FAILED, message='\\udcff')", "failed"),
    ],
)
async def test_what_a_stage_returns_is_checked_before_it_is_reported(tmp_path: Path, returned: str, verdict: str) -> None:
    stage = f"good = Case(name='good', status=CaseStatus.PASSED)\n@stage\nasync def smoke(server): return {returned}\n"
    report = await ran(tmp_path, "await ci.test(server, smoke)", stage)
    assert report.stages[1].verdict.value == verdict, report.stages[1]
    assert report.problem is None


async def test_a_result_with_fewer_cases_than_promised_is_errored(tmp_path: Path) -> None:
    stage = """
@stage(promises=2)
async def smoke(server):
    return StageResult(name="x", verdict=Verdict.PASSED, seconds=0, cases=(Case(name="a", status=CaseStatus.PASSED),))
"""
    report = await ran(tmp_path, "await ci.test(server, smoke)", stage)
    assert report.stages[1].message == "1 cases ran, 2 were promised"


@pytest.mark.parametrize(
    ("programs", "result", "said"),
    [
        ("return None", RESULT, "programs() of the stage smoke returned NoneType"),
        ("return (7,)", RESULT, "programs() of the stage smoke returned tuple"),
        ("return ()", RESULT, "returned int in place of a StageResult"),
        ("return ()", "def result(self, context, outcomes): return 7", "is not async"),
        ("sys.exit(0)", RESULT, "SystemExit: 0"),
        ("raise ValueError('\\udcff')", RESULT, "ValueError: \\udcff"),
    ],
)
async def test_an_object_that_is_no_proper_stage_is_errored(tmp_path: Path, programs: str, result: str, said: str) -> None:
    report = await ran(tmp_path, "await ci.test(server, Smoke())", OBJECT.format(programs=programs, result=result))
    assert report.stages[1].verdict is Verdict.ERRORED
    assert said in report.stages[1].message


async def test_an_assert_in_a_task_of_a_stage_fails_it_with_its_line(tmp_path: Path) -> None:
    stage = """
async def look(): assert 0, "in a task"
@stage
async def smoke(server):
    async with anyio.create_task_group() as group: group.start_soon(look)
"""
    report = await ran(tmp_path, "await ci.test(server, smoke)", stage)
    assert report.stages[1].verdict is Verdict.FAILED
    assert report.stages[1].cases[0].message == "ci/pipeline.py:4: in a task"


async def test_a_stage_that_is_a_class_is_chosen_by_its_name(tmp_path: Path) -> None:
    stage = OBJECT.format(programs="return ()", result=RESULT)
    report = await ran(tmp_path, "await ci.test(server, Smoke())", stage, stages=("smoke",))
    assert [each.name for each in report.stages] == ["smoke"]


async def test_a_pipeline_that_is_a_link_out_of_the_checkout_is_refused(tmp_path: Path) -> None:
    repository(tmp_path / "own", "")
    (tmp_path / "other.py").write_text(f"{HEAD}async def pipeline(ci): return ci.report()\n")
    place = tmp_path / "own" / "ci" / "pipeline.py"
    place.unlink(missing_ok=True)
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(tmp_path / "other.py")
    with pytest.raises(ConfigError, match="outside the checkout"):
        await run_pipeline(tmp_path / "own", engine=MemoryEngine())


async def test_a_pipeline_that_git_ignores_is_refused(tmp_path: Path) -> None:
    repository(tmp_path, f"{HEAD}async def pipeline(ci): return ci.report()\n")
    git("rm", "--quiet", "--cached", "ci/pipeline.py", cwd=tmp_path)
    (tmp_path / ".git" / "info").mkdir(exist_ok=True)
    (tmp_path / ".git" / "info" / "exclude").write_text("/ci/\n")
    with pytest.raises(ConfigError, match="is ignored by git"):
        await run_pipeline(tmp_path, engine=MemoryEngine())


async def test_no_report_has_a_secret_that_a_stage_puts_into_names_keys_or_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = 's3cr<t&"\\é'
    monkeypatch.setenv("LOAD_TOKEN", secret)
    text = f"""{HEAD}import os
@stage
async def leak(server):
    t = os.environ["LOAD_TOKEN"]
    return Case(name=f"case[{{t}}]", status=CaseStatus.FAILED, message=t, details=t, properties={{"a": t, t: [t]}})
async def pipeline(ci):
    async with ci.serve(await ci.build()) as server:
        await ci.test(server, leak, "load")
    raise ValueError(os.environ["LOAD_TOKEN"])
"""
    config = 'version: 1\nstages:\n  load: {run: ["true"], secrets: [LOAD_TOKEN]}\n'
    repository(tmp_path, text, config=config)
    engine = MemoryEngine().on("load", Ends(exit_code=1, log=f"it is {secret}"))
    report = await run_pipeline(tmp_path, engine=engine, report_dir=tmp_path / "runs")
    assert "s3cr" not in repr(report)
    files = [file for file in (tmp_path / "runs" / "latest").rglob("*") if file.is_file()]
    assert len(files) > 4
    assert [file.name for file in files if "s3cr" in file.read_text()] == []
