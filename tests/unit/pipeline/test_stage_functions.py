"""Stages of the user's own in Python: functions and objects of the pipeline."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from standin.repository import repository
from unit.pipeline.own_stages import HEAD, in_python
from vllm_ci import (
    ConfigError,
    MemoryEngine,
    Verdict,
    kills_the_server,
    run_pipeline,
)
from vllm_ci.stages import running

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("in_project")]


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


@pytest.mark.slow
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


@pytest.mark.slow
async def test_a_stage_in_python_is_chosen_by_its_name(tmp_path: Path) -> None:
    code = "@stage(name='smoke-2')\nasync def smoke(server): ...\n"
    assert (await in_python(tmp_path, code, stages=("smoke-2",))).name == "smoke-2"
    with pytest.raises(ConfigError, match="did you mean smoke-2"):
        await run_pipeline(tmp_path, engine=MemoryEngine(), stages=("smoke2",))


@pytest.mark.slow
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


@pytest.mark.slow
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
