from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vllm_ci.domain.errors import ConfigError, ErroredError, UsageError
from vllm_ci.images import uv
from vllm_ci.images.index import Indexes
from vllm_ci.system import external, vcs
from vllm_ci.system.external import ProgramTimeoutError

PYTHON = (sys.executable, "-I", "-S", "-c")


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def until_gone(pids: list[int], within_s: float = 15.0) -> None:
    end = time.monotonic() + within_s
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < end, f"still running: {[pid for pid in pids if alive(pid)]}"
        time.sleep(0.02)


def until_written(path: Path, lines: int) -> list[int]:
    end = time.monotonic() + 20
    while not path.exists() or len(path.read_text(encoding="utf-8").split()) < lines:
        assert time.monotonic() < end
        time.sleep(0.01)
    return [int(word) for word in path.read_text(encoding="utf-8").split()]


def family(path: Path) -> str:
    """A shell with a child that ignores SIGTERM; both write their numbers to ``path``."""
    return f"echo $$ >> {path}; (trap '' TERM; sh -c 'echo $$ >> {path}; sleep 600') & wait"


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listening:
        yield listening.getsockname()[1]


def test_output_errors_and_exit_code_are_returned() -> None:
    done = external.run([*PYTHON, "import sys; print('out'); sys.stderr.write('err'); sys.exit(3)"], what="x", deadline_s=30)
    assert (done.exit_code, done.output, done.errors) == (3, b"out\n", b"err")


def test_a_program_that_a_signal_ends_has_the_shell_s_exit_code() -> None:
    assert external.run(["sh", "-c", "kill -9 $$"], what="x", deadline_s=30).exit_code == 137


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_large_input_and_output_are_complete(size: int) -> None:
    content = os.urandom(size)
    assert external.run(["cat"], what="cat", deadline_s=60, stdin=content).output == content


def test_a_program_that_does_not_read_its_input_is_no_fault() -> None:
    assert external.run(["true"], what="true", deadline_s=30, stdin=b"x" * 1_000_000).exit_code == 0


def test_a_program_cannot_prompt() -> None:
    """Neither on standard input nor on a terminal: the program has none."""
    code = "import sys\nprint(repr(sys.stdin.read()))\ntry: open('/dev/tty'); print('tty')\nexcept OSError: print('none')"
    assert external.run([*PYTHON, code], what="x", deadline_s=30).output.split() == [b"''", b"none"]


@pytest.mark.slow
def test_at_the_deadline_a_program_is_ended_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    began = time.monotonic()
    with pytest.raises(ProgramTimeoutError, match=r"x did not end within 1 s.*\n.*end of its output: waiting.*\n.*try it"):
        external.run(["sh", "-c", f"echo waiting >&2; {family(pids)}"], what="x", deadline_s=1, remedy="try it")
    assert time.monotonic() - began < 10
    until_gone(until_written(pids, 2), within_s=1)


@pytest.mark.slow
def test_the_deadline_of_all_programs_is_set_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(external.TIMEOUT_VARIABLE, "0.3")
    with pytest.raises(ProgramTimeoutError, match=f"within 0.3 s(.|\n)*{external.TIMEOUT_VARIABLE}=SECONDS") as caught:
        external.run(["sleep", "60"], what="sleep", deadline_s=600)
    assert caught.value.exit_code == 3
    for wrong in ("soon", "-1", "0", "inf", "nan"):
        monkeypatch.setenv(external.TIMEOUT_VARIABLE, wrong)
        with pytest.raises(ConfigError, match=external.TIMEOUT_VARIABLE):
            external.run(["true"], what="true", deadline_s=1)


def test_what_is_kept_of_the_output_is_bounded() -> None:
    loop = "for n in range(20000): print('x' * 1000); sys.stderr.write('y' * 1000)"
    code = f"import sys\n{loop}\nprint('end'); sys.stderr.write('END')"
    done = external.run([*PYTHON, code], what="x", deadline_s=120, only_tail=True)
    assert len(done.output) <= 65536
    assert len(done.errors) <= 65536
    assert done.output.endswith(b"end\n")
    assert done.errors.endswith(b"END")
    with pytest.raises(ErroredError, match="more than 1 MB"):
        external.run([*PYTHON, code], what="x", deadline_s=120, output_bytes=1_000_000)


@pytest.mark.slow
def test_a_child_that_keeps_the_pipes_open_does_not_block(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    began = time.monotonic()
    done = external.run(["sh", "-c", f"(sh -c 'echo $$ > {pids}; sleep 600') & sleep 0.3; echo done"], what="x", deadline_s=120)
    assert done.output == b"done\n"
    assert time.monotonic() - began < 20
    until_gone(until_written(pids, 1), within_s=1)


def test_bytes_that_are_no_text_are_shown() -> None:
    done = external.run(["sh", "-c", r"printf 'caf\351\n' >&2; exit 1"], what="x", deadline_s=30)
    assert done.tail() == "caf�"


def test_a_missing_program_and_a_missing_directory_have_different_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no-such-program was not found"):
        external.run(["no-such-program"], what="x", deadline_s=1)
    with pytest.raises(UsageError, match="is not a directory"):
        external.run(["true"], what="x", deadline_s=1, cwd=tmp_path / "absent")
    denied = tmp_path / "file"
    denied.write_bytes(b"")
    with pytest.raises(ErroredError, match="cannot be started"):
        external.run([str(denied)], what="x", deadline_s=1)


CALLER = """
import sys
from vllm_ci.system import external
from vllm_ci.cli import signals
if sys.argv[2] == "signals":
    signals.catch()
try:
    external.run(["sh", "-c", sys.argv[1]], what="x", deadline_s=600)
except KeyboardInterrupt as error:
    sys.exit(130)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "handled"), [(signal.SIGKILL, ""), (signal.SIGTERM, ""), (signal.SIGTERM, "signals"), (signal.SIGINT, "")]
)
def test_when_the_caller_ends_so_does_the_program_with_its_children(tmp_path: Path, number: int, handled: str) -> None:
    pids = tmp_path / "pids"
    caller = subprocess.Popen([sys.executable, "-c", CALLER, family(pids), handled])
    running = until_written(pids, 2)
    os.kill(caller.pid, number)
    code = caller.wait(20)
    assert code == (130 if handled or number == signal.SIGINT else -number)
    until_gone(running)


def test_a_thread_that_waits_for_a_program_goes_on_when_programs_are_ended(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    codes: list[int] = []
    argv = ["sh", "-c", f"echo $$ > {pids}; exec sleep 600"]
    waiting = threading.Thread(target=lambda: codes.append(external.run(argv, what="x", deadline_s=600).exit_code))
    waiting.start()
    until_written(pids, 1)
    external.end_running()
    waiting.join(20)
    assert codes == [143]


def test_a_program_that_starts_while_programs_are_ended_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    started = subprocess.Popen

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        process = started(*arguments, **options)
        external.end_running()
        return process

    monkeypatch.setattr(subprocess, "Popen", meanwhile)
    begun = time.monotonic()
    assert external.run(["sleep", "60"], what="x", deadline_s=60).exit_code == 143
    assert time.monotonic() - begun < 30


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["http", "git", "ssh"])
def test_a_git_server_that_never_responds_times_out(
    silent: int, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(external.TIMEOUT_VARIABLE, "2")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    began = time.monotonic()
    with pytest.raises(
        ProgramTimeoutError, match=r"git ls-remote did not end within 2 s(.|\n)*check that the repository's server"
    ):
        vcs.git("ls-remote", f"{scheme}://127.0.0.1:{silent}/repository.git", cwd=tmp_path)
    assert time.monotonic() - began < 15


@pytest.mark.slow
def test_an_index_that_never_responds_times_out(silent: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(external.TIMEOUT_VARIABLE, "2")
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    indexes = Indexes(urls=(f"http://127.0.0.1:{silent}/simple",), find_links=(), certificates="")
    with pytest.raises(ProgramTimeoutError, match=r"uv pip compile did not end within 2 s(.|\n)*check that the package"):
        uv.resolve(
            ["six"], overrides=[], python="3.11", glibc="2.36", platform="linux/amd64", indexes=indexes, prefer={},
            arguments=("--no-cache",),
        )  # fmt: skip
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == [".sweep"]
