"""What every engine promises (vllm_ci.engine)."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from vllm_ci.domain.errors import EngineError, ServiceError
from vllm_ci.domain.program import Outcome, Program, ServiceSpec
from vllm_ci.engine import Engine

pytestmark = pytest.mark.anyio

ECHO = "import http.server,sys;http.server.test(http.server.SimpleHTTPRequestHandler,port=int(sys.argv[1]),bind='0.0.0.0')"
GET = "import sys,urllib.request as u;print(u.urlopen(sys.argv[1],timeout=5).status)"


def python(code: str, *arguments: str, name: str = "program", **more: object) -> Program:
    return Program(name=name, argv=("python", "-c", code, *arguments), **more)  # type: ignore[arg-type]


def web(**more: object) -> ServiceSpec:
    fields = {"argv": ("python", "-u", "-c", ECHO, "{port}"), "ready": ("python", "-c", GET, "{url}/"), "ready_timeout_s": 60}
    return ServiceSpec(name="web", **{**fields, **more})  # type: ignore[arg-type]


async def test_a_program_that_succeeds_is_true_and_its_output_is_in_the_log(engine: Engine) -> None:
    outcome = await engine.run(python("print('hello'); import sys; print('there', file=sys.stderr)"))
    assert outcome
    assert outcome.exit_code == 0
    assert "hello" in outcome.log
    assert "there" in outcome.log


async def test_a_failing_program_is_an_outcome_with_its_exit_code_and_its_files(engine: Engine) -> None:
    code = "import sys, pathlib; pathlib.Path(sys.argv[1], 'left.txt').write_text('here'); sys.exit(7)"
    outcome = await engine.run(python(code, "{out}"))
    assert not outcome
    assert outcome.exit_code == 7
    assert await outcome.output.read("left.txt") == b"here"


async def test_a_missing_output_file_is_file_not_found(engine: Engine) -> None:
    outcome = await engine.run(python("pass"))
    with pytest.raises(FileNotFoundError):
        await outcome.output.read("nothing.json")
    assert await outcome.output.names() == ()


async def test_inputs_are_read_where_their_placeholder_says(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "deep" / "a.txt").write_text("content")
    code = "import sys, pathlib; print(pathlib.Path(sys.argv[1], 'deep', 'a.txt').read_text())"
    outcome = await engine.run(python(code, "{in.data}", inputs={"data": engine.directory(tmp_path / "data")}))
    assert "content" in outcome.log


async def test_output_of_one_program_is_input_of_the_next(engine: Engine, tmp_path: Path) -> None:
    first = await engine.run(python("import sys; open(sys.argv[1] + '/x', 'w').write('42')", "{out}"))
    second = await engine.run(
        python("import sys; print(open(sys.argv[1] + '/x').read())", "{in.x}", inputs={"x": first.output})
    )
    assert "42" in second.log
    await engine.export(first.output, tmp_path / "exported")
    assert (tmp_path / "exported" / "x").read_text() == "42"


async def test_a_link_in_an_output_is_exported_as_a_link(engine: Engine, tmp_path: Path) -> None:
    outcome = await engine.run(python("import os, sys; os.symlink('/etc/passwd', sys.argv[1] + '/link')", "{out}"))
    await engine.export(outcome.output, tmp_path / "exported")
    assert (tmp_path / "exported" / "link").is_symlink(), "what it leads to is not copied"


async def test_environment_values_are_filled_in_and_braces_survive(engine: Engine) -> None:
    code = "import os; print('{' not in os.environ['WHERE'], os.environ['JSON'])"
    outcome = await engine.run(python(code, env={"WHERE": "{out}", "JSON": '{"a": {"b": 1}}'}))
    assert 'True {"a": {"b": 1}}' in outcome.log


async def test_secrets_are_handed_through_by_name(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTRACT_SECRET", "correct horse")
    code = "import os; print(len(os.environ['CONTRACT_SECRET']))"
    outcome = await engine.run(python(code, secrets=("CONTRACT_SECRET",)))
    assert "13" in outcome.log
    monkeypatch.delenv("CONTRACT_SECRET")
    with pytest.raises(EngineError, match="CONTRACT_SECRET"):
        await engine.run(python(code, secrets=("CONTRACT_SECRET",)))


async def test_a_program_over_its_time_is_ended_and_says_so(engine: Engine) -> None:
    outcome = await engine.run(python("import time; print('started', flush=True); time.sleep(600)", timeout_s=3))
    assert outcome.timed_out
    assert not outcome
    assert outcome.seconds < 60


async def test_a_command_that_does_not_exist_is_an_engine_error(engine: Engine) -> None:
    with pytest.raises(EngineError, match="no-such-command"):
        await engine.run(Program(name="nothing", argv=("no-such-command",)))


async def test_a_cached_program_runs_once_and_a_failed_one_is_not_cached(engine: Engine) -> None:
    code = "import sys, uuid; open(sys.argv[1] + '/id', 'w').write(str(uuid.uuid4()))"
    first = await engine.run(python(code, "{out}", cache_key="contract-once"))
    again = await engine.run(python(code, "{out}", cache_key="contract-once"))
    assert await first.output.read("id") == await again.output.read("id")
    failing = python("import sys; sys.exit(3)", cache_key="contract-failing")
    assert (await engine.run(failing)).exit_code == 3
    assert (await engine.run(failing)).exit_code == 3


async def test_a_service_is_ready_when_it_is_handed_over_and_programs_reach_it(engine: Engine) -> None:
    async with engine.serve(web()) as service:
        assert await service.alive()
        assert service.ready_s >= 0
        outcome = await engine.run(python(GET, "{url.web}/", needs={"web": service}))
        assert "200" in outcome.log


async def test_two_services_live_side_by_side(engine: Engine) -> None:
    async with engine.serve(web()) as one, engine.serve(web()) as two:
        outcome = await engine.run(python(GET, "{url.a}/", needs={"a": one, "b": two}))
        assert outcome
        assert await one.alive()
        assert await two.alive()


async def test_a_service_that_dies_at_the_start_is_a_service_error_with_its_log(engine: Engine) -> None:
    with pytest.raises(ServiceError, match="cannot find the weights"):
        async with engine.serve(web(argv=("python", "-c", "raise SystemExit('cannot find the weights')"))):
            pytest.fail("it was handed over")


async def test_a_service_that_is_never_ready_is_a_service_error_in_bounded_time(engine: Engine) -> None:
    with anyio.fail_after(120), pytest.raises(ServiceError):
        async with engine.serve(web(ready=("python", "-c", "raise SystemExit(1)"), ready_timeout_s=4)):
            pytest.fail("it was handed over")


async def test_programs_run_side_by_side(engine: Engine) -> None:
    """Each waits until the service has seen the other one: they can only end if both run at once."""
    meet = (
        "import socket,sys,time\n"
        "end=time.monotonic()+60\n"
        "import urllib.request as u\n"
        "u.urlopen(sys.argv[1]+'/'+sys.argv[2], timeout=5).read()\n"
        "while time.monotonic()<end:\n"
        "    if u.urlopen(sys.argv[1]+'/seen/'+sys.argv[3], timeout=5).read()==b'yes': sys.exit(0)\n"
        "    time.sleep(0.05)\n"
        "sys.exit('never met')"
    )
    server = (
        "import http.server,sys\n"
        "seen=set()\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        name=self.path.rsplit('/',1)[1]\n"
        "        answer=(b'yes' if name in seen else b'no') if self.path.startswith('/seen/') else (seen.add(name) or b'ok')\n"
        "        self.send_response(200); self.send_header('content-length', str(len(answer))); self.end_headers()\n"
        "        self.wfile.write(answer)\n"
        "http.server.ThreadingHTTPServer(('0.0.0.0', int(sys.argv[1])), H).serve_forever()"
    )
    outcomes: list[bool] = []
    async with engine.serve(web(argv=("python", "-c", server, "{port}"))) as service:

        async def run(me: str, other: str) -> None:
            program = python(meet, "{url.web}", me, other, name=me, needs={"web": service})
            outcomes.append(bool(await engine.run(program)))

        async with anyio.create_task_group() as group:
            group.start_soon(run, "left", "right")
            group.start_soon(run, "right", "left")
    assert outcomes == [True, True]


async def test_a_program_that_is_stopped_ends_at_once_and_says_so(engine: Engine) -> None:
    stop = anyio.Event()
    outcomes: list[Outcome] = []
    code = "import sys,time; open(sys.argv[1] + '/early', 'w').write('kept'); print('up', flush=True); time.sleep(600)"

    async def run() -> None:
        outcomes.append(await engine.run(python(code, "{out}"), stop=stop))

    with anyio.fail_after(120):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await anyio.sleep(3)
            stop.set()
    (outcome,) = outcomes
    assert outcome.stopped
    assert not outcome
    assert not outcome.timed_out
    if engine.name == "host":  # others cannot read the files of a command that has not ended
        assert await outcome.output.read("early") == b"kept"
        assert "up" in outcome.log


async def test_an_engine_tells_the_machine_that_its_programs_run_on(engine: Engine) -> None:
    facts = await engine.hardware()
    code = "import os,platform; print(len(os.sched_getaffinity(0)), platform.machine())"
    seen = (await engine.run(python(code))).log.split()
    assert [str(facts["cores"]), facts["machine"]] == seen[-2:]
    assert isinstance(facts["memory_bytes"], int)
    assert facts["memory_bytes"] > 2**20
    assert set(facts) <= {"system", "machine", "cpu", "cores", "memory_bytes", "gpus", "python"}


@pytest.mark.parametrize("name", ["PATH", "LD_PRELOAD", "PYTHONPATH", "HOME", "PATH=CONTRACT_SECRET"])
async def test_a_secret_that_would_replace_what_a_program_needs_is_refused(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("CONTRACT_SECRET", "correct horse")
    monkeypatch.setenv("LD_PRELOAD", "")
    with pytest.raises(EngineError, match="another name"):
        await engine.run(python("pass", secrets=(name,)))


async def test_cancelling_a_run_ends_what_it_started(engine: Engine) -> None:
    async with engine.serve(web()) as service:
        with anyio.move_on_after(3):
            await engine.run(python("import time; time.sleep(600)", name="endless"))
        assert await service.alive()
