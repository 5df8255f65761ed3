"""The memory engine keeps the promises of an engine that have nothing to do with running programs."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from vllm_ci.domain.errors import EngineError, ServiceError
from vllm_ci.domain.program import Outcome, Program, ServiceSpec
from vllm_ci.engine import Engine
from vllm_ci.engines import open_engine
from vllm_ci.engines.memory import MemoryEngine, hangs, times_out
from vllm_ci.engines.scripts import Ends

pytestmark = pytest.mark.anyio

WEB = ServiceSpec(name="web", argv=("web",), ready=("true",))


def program(name: str = "program", **more: object) -> Program:
    return Program(name=name, argv=("anything",), **more)  # type: ignore[arg-type]


async def test_it_is_an_engine_by_its_name_and_says_that_it_is_a_double() -> None:
    async with open_engine("memory") as engine:
        checked: Engine = engine
        assert checked.capabilities.double
        assert (await checked.hardware())["cores"] == checked.capabilities.cores


async def test_a_failing_program_is_an_outcome_with_its_exit_code_and_its_files() -> None:
    outcome = await MemoryEngine().on("program", Ends(exit_code=7, files={"left.txt": "here"}, log="said")).run(program())
    assert not outcome
    assert (outcome.exit_code, outcome.log) == (7, "said")
    assert await outcome.output.read("left.txt") == b"here"
    assert await outcome.output.names() == ("left.txt",)


async def test_a_missing_output_file_is_file_not_found() -> None:
    outcome = await MemoryEngine().run(program())
    with pytest.raises(FileNotFoundError):
        await outcome.output.read("nothing.json")


async def test_directories_are_read_and_exported(tmp_path: Path) -> None:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "deep" / "a.txt").write_text("content")
    engine = MemoryEngine().on("program", Ends(files={"x/y": {"a": 1}}))
    directory = engine.directory(tmp_path / "data")
    assert await directory.names() == ("deep/a.txt",)
    assert await directory.read("deep/a.txt") == b"content"
    await engine.export(directory, tmp_path / "copy")
    await engine.export((await engine.run(program())).output, tmp_path / "out")
    assert (tmp_path / "copy" / "deep" / "a.txt").read_text() == "content"
    assert (tmp_path / "out" / "x" / "y").read_text() == '{"a": 1}'


async def test_a_program_over_its_time_is_ended_and_says_so() -> None:
    outcome = await MemoryEngine().on("program", times_out()).run(program(timeout_s=3))
    assert outcome.timed_out
    assert not outcome


async def test_a_cached_program_runs_once_and_a_failed_one_is_not_cached() -> None:
    engine = MemoryEngine().on("bad", Ends(exit_code=3))
    assert not (await engine.run(program(cache_key="good"))).reused
    assert (await engine.run(program(cache_key="good"))).reused
    for _ in range(2):
        assert (await engine.run(program("bad", cache_key="bad"))).exit_code == 3
    assert engine.programs == ["program", "bad", "bad"]


async def test_services_live_side_by_side_and_are_stopped_with_their_context() -> None:
    engine = MemoryEngine()
    async with engine.serve(WEB) as one, engine.serve(WEB) as two:
        assert await one.alive()
        assert await two.alive()
        assert engine.stopped == []
    assert engine.stopped == ["web", "web"]


@pytest.mark.parametrize("ending", [Ends(exit_code=1, log="cannot find the weights"), times_out("cannot find the weights")])
async def test_a_service_that_does_not_start_is_a_service_error_with_its_log(ending: Ends) -> None:
    with pytest.raises(ServiceError) as caught:
        async with MemoryEngine().on("web", ending).serve(WEB):
            pytest.fail("it was handed over")
    assert caught.value.log == "cannot find the weights"


async def test_a_program_that_is_stopped_ends_at_once_and_says_so() -> None:
    engine, stop, outcomes = MemoryEngine().on("program", hangs("up")), anyio.Event(), list[Outcome]()

    async def run() -> None:
        outcomes.append(await engine.run(program(), stop=stop))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await anyio.sleep(0.05)
            assert outcomes == []
            stop.set()
    assert outcomes[0].stopped
    assert not outcomes[0]


async def test_cancelling_a_run_leaves_services_alone() -> None:
    engine = MemoryEngine().on("program", hangs())
    async with engine.serve(WEB) as service:
        with anyio.move_on_after(0.05):
            await engine.run(program())
        assert await service.alive()


@pytest.mark.parametrize("name", ["PATH", "LD_PRELOAD", "PATH=CONTRACT_SECRET"])
async def test_a_secret_that_would_replace_what_a_program_needs_is_refused(name: str) -> None:
    with pytest.raises(EngineError, match="another name"):
        await MemoryEngine().run(program(secrets=(name,)))


async def test_a_secret_that_is_not_there_is_an_engine_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONTRACT_SECRET", raising=False)
    with pytest.raises(EngineError, match="CONTRACT_SECRET"):
        await MemoryEngine().run(program(secrets=("CONTRACT_SECRET",)))
    monkeypatch.setenv("CONTRACT_SECRET", "correct horse")
    assert await MemoryEngine().run(program(secrets=("CONTRACT_SECRET",)))


async def test_an_exception_can_be_scripted() -> None:
    with pytest.raises(EngineError, match="no disk"):
        await MemoryEngine().on("program", EngineError("no disk")).run(program())
