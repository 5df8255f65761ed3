"""What processes on a host must keep beyond the contract: nothing is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from vllm_ci.domain.errors import EngineError, ServiceError
from vllm_ci.domain.program import Program, ServiceSpec
from vllm_ci.engines import supervise, workspace
from vllm_ci.engines.host import HostEngine

pytestmark = pytest.mark.anyio

SLEEPER = "import sys, time; open(sys.argv[1], 'w').write(str(__import__('os').getpid())); time.sleep(600)"
DAEMON = (
    "import os, sys, time\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    if os.fork() == 0:\n"
    "        open(sys.argv[1], 'w').write(str(os.getpid()))\n"
    "        time.sleep(600)\n"
    "    os._exit(0)\n"
    "while not os.path.exists(sys.argv[1]): time.sleep(0.01)\n"
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"


async def pid_in(file: Path) -> int:
    with anyio.fail_after(20):
        while not (file.exists() and file.read_text(encoding="utf-8")):
            await anyio.sleep(0.02)
    return int(file.read_text(encoding="utf-8"))


async def until_gone(pid: int) -> None:
    with anyio.fail_after(20):
        while not gone(pid):
            await anyio.sleep(0.02)


async def test_a_daemon_that_a_program_leaves_is_gone_with_it(tmp_path: Path) -> None:
    async with HostEngine() as engine:
        assert await engine.run(Program(name="forks", argv=("python", "-c", DAEMON, str(tmp_path / "pid"))))
    await until_gone(await pid_in(tmp_path / "pid"))


@pytest.mark.slow
async def test_kill_9_of_the_pipeline_ends_its_programs_and_the_next_one_sweeps_its_folder(tmp_path: Path) -> None:
    code = (
        "import anyio, sys\n"
        "from vllm_ci.engines.host import HostEngine\n"
        "from vllm_ci.domain.program import Program\n"
        "async def main():\n"
        "    async with HostEngine() as engine:\n"
        "        await engine.run(Program(name='sleeper', argv=('python', '-c', sys.argv[1], sys.argv[2])))\n"
        "anyio.run(main)\n"
    )
    victim = subprocess.Popen([sys.executable, "-c", code, SLEEPER, str(tmp_path / "pid")])
    pid = await pid_in(tmp_path / "pid")
    work = tmp_path / "home" / "work"
    assert len(list(work.glob("*/.lock"))) == 1
    victim.kill()
    victim.wait()
    await until_gone(pid)
    async with HostEngine():
        assert len(list(work.glob("*/.lock"))) == 1
    assert not list(work.glob("*/.lock"))


@pytest.mark.slow
async def test_a_command_deaf_to_sigterm_is_killed_after_its_grace(tmp_path: Path) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SLEEPER
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", supervise.__file__, "0.5", sys.executable, "-c", deaf, str(tmp_path / "pid")],
        stdin=subprocess.PIPE,
    )
    pid = await pid_in(tmp_path / "pid")
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(20) == 128 + signal.SIGKILL
    assert gone(pid)


@pytest.mark.slow
def test_a_command_that_ends_at_once_is_never_missed() -> None:
    """Forty of them, several at a time: its end can fall before, into and after the first look at it."""
    command = [sys.executable, "-I", "-S", supervise.__file__, "5", "/bin/sh", "-c", "exit 7"]
    for _ in range(10):
        several = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(4)]
        assert [process.wait(30) for process in several] == [7] * 4
        for process in several:
            assert process.stdin is not None
            process.stdin.close()


async def test_a_port_that_is_taken_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        spec = ServiceSpec(name="web", argv=("python", "-c", SLEEPER, str(tmp_path / "pid")), ready=("true",), port=port)
        async with HostEngine() as engine:
            with pytest.raises(ServiceError, match=f"port {port} is already in use"):
                async with engine.serve(spec):
                    pytest.fail("it was handed over")
    assert not (tmp_path / "pid").exists()


@pytest.mark.slow
async def test_a_service_that_stops_by_itself_is_seen(tmp_path: Path) -> None:
    spec = ServiceSpec(
        name="web", argv=("python", "-c", SLEEPER, str(tmp_path / "pid")), ready=("test", "-s", str(tmp_path / "pid"))
    )
    async with HostEngine() as engine, engine.serve(spec) as service:
        os.kill(await pid_in(tmp_path / "pid"), signal.SIGKILL)
        with anyio.fail_after(20):
            while await service.alive():
                await anyio.sleep(0.02)


async def test_what_the_caller_has_in_its_environment_stays_out_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "secret")
    async with HostEngine() as engine:
        outcome = await engine.run(Program(name="env", argv=("env",)))
    assert "SOME_TOKEN" not in outcome.log
    assert "PATH=" in outcome.log


async def test_a_folder_that_cannot_be_made_is_an_engine_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "file"))
    with pytest.raises(EngineError, match="VLLM_CI_HOME"):
        async with HostEngine():
            pytest.fail("it was made")


def test_the_first_of_two_equal_outputs_stands(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "who").write_text(name)
    assert workspace.keep(tmp_path / "one", tmp_path / "kept" / "key") == tmp_path / "kept" / "key"
    workspace.keep(tmp_path / "two", tmp_path / "kept" / "key")
    assert (tmp_path / "kept" / "key" / "who").read_text() == "one"


def test_a_folder_in_use_survives_another_owner(tmp_path: Path) -> None:
    with workspace.folder(tmp_path) as one:
        with workspace.folder(tmp_path) as two:
            assert one.is_dir()
            assert two.is_dir()
        assert one.is_dir()
        assert not two.is_dir()
