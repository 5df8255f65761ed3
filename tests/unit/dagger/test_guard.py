"""The guard, as a container runs it, without a container."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vllm_ci.engines import guard

pytestmark = pytest.mark.slow

SCRIPT = Path(guard.__file__)
SERVE = (
    "import http.server, sys, os\n"
    "print('here', os.environ.get('VLLM_CI_GUARD_TOKEN'), os.environ.get('OTEL_SERVICE_NAME'), flush=True)\n"
    "class Handler(http.server.BaseHTTPRequestHandler):\n"
    "    def do_GET(self): print('last words', flush=True); os._exit(6)\n"
    "http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()\n"
)
CONNECT = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5).close()"


def environment(**more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], guard.THIS_RUN: "this-one", guard.UNIQUE: "x", "OTEL_SERVICE_NAME": "dagger", **more}


def run(result: Path, *argv: str, timeout_s: float = 60) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-I", "-S", str(SCRIPT), "run", str(result), str(timeout_s), *argv]
    done = subprocess.run(command, env=environment(), check=False, capture_output=True, timeout=120)
    return done.returncode, json.loads(result.read_text(encoding="utf-8"))


def test_a_result_tells_how_a_command_ended_and_which_run_it_was(tmp_path: Path) -> None:
    code = "import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(7)"
    exit_code, result = run(tmp_path / "result.json", "python", "-c", code)
    assert exit_code == result["exit_code"] == 7
    assert result["run"] == "this-one"
    assert result["log"].split() == ["out", "err"]
    assert not result["timed_out"]


def test_codes_of_signals_are_told_in_the_result_as_dagger_takes_none_above_127(tmp_path: Path) -> None:
    exit_code, result = run(tmp_path / "result.json", "python", "-c", "import os; os.kill(os.getpid(), 15)")
    assert (exit_code, result["exit_code"]) == (1, 128 + signal.SIGTERM)


def test_a_command_over_its_time_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    begun = time.monotonic()
    exit_code, result = run(tmp_path / "result.json", "sh", "-c", "sleep 600 & sleep 600", timeout_s=0.5)
    assert time.monotonic() - begun < 60
    assert exit_code == 1
    assert result["timed_out"]


def test_a_command_that_does_not_exist_is_named(tmp_path: Path) -> None:
    exit_code, result = run(tmp_path / "result.json", "no-such-command")
    assert (exit_code, result["missing"]) == (127, "no-such-command")


def test_a_command_sees_nothing_of_what_the_engine_put_there_for_itself(tmp_path: Path) -> None:
    _, result = run(tmp_path / "result.json", "python", "-c", "import os; print(sorted(os.environ))")
    assert "OTEL" not in result["log"]
    assert "VLLM_CI" not in result["log"]


@contextmanager
def served(free_port: Callable[[], int], *argv: str, **more: str) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """A guarded service, the port of its guard, and its own, where a request makes it die."""
    port, control = free_port(), free_port()
    check = json.dumps(["python", "-c", CONNECT, str(port)])
    command = [sys.executable, "-I", "-S", str(SCRIPT), "serve", str(control), "5", check, *(argv or ("python", "-c", SERVE))]
    process = subprocess.Popen([*command, str(port)], env=environment(**more), stdout=subprocess.DEVNULL)
    try:
        yield process, control, port
    finally:
        process.terminate()
        process.wait(30)


def is_ready(control: int) -> bool:
    command = [sys.executable, "-I", "-S", str(SCRIPT), "ready", str(control)]
    return subprocess.run(command, env=environment(), check=False, capture_output=True).returncode == 0


def until_ready(control: int) -> None:
    end = time.monotonic() + 60
    while not is_ready(control):
        assert time.monotonic() < end, "never ready"


def ask(control: int, path: str, token: str = "") -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{control}{path}", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=10) as response:
        text: str = response.read().decode()
        return text


def test_the_guard_of_a_service_answers_to_who_knows_the_token(free_port: Callable[[], int]) -> None:
    with served(free_port, **{guard.TOKEN: "correct"}) as (_, control, _):
        until_ready(control)
        assert json.loads(ask(control, "/alive", "correct")) == {"alive": True}
        assert ask(control, "/log", "correct").startswith("here None None")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(control, "/log", "wrong")


def test_a_service_that_dies_at_the_start_takes_its_guard_along(free_port: Callable[[], int]) -> None:
    with served(free_port, "python", "-c", "raise SystemExit(5)", **{guard.TOKEN: "t"}) as (process, _, _):
        assert process.wait(30) == 5


def make_it_die(port: int) -> None:
    with pytest.raises(OSError, match=r"closed connection|reset"):
        ask(port, "/")


def test_a_guard_that_can_be_asked_outlives_its_service_to_tell_what_happened(free_port: Callable[[], int]) -> None:
    with served(free_port, **{guard.TOKEN: "t"}) as (process, control, port):
        until_ready(control)
        make_it_die(port)
        while json.loads(ask(control, "/alive", "t"))["alive"]:
            pass
        assert "last words" in ask(control, "/log", "t")
        assert not is_ready(control)
        assert process.poll() is None


def test_a_guard_that_nobody_can_ask_ends_with_its_service(free_port: Callable[[], int]) -> None:
    with served(free_port) as (process, control, port):
        until_ready(control)
        make_it_die(port)
        assert process.wait(30) == 6


def test_a_guard_that_is_asked_to_stop_does_so_at_once(free_port: Callable[[], int]) -> None:
    with served(free_port, **{guard.TOKEN: "t"}) as (process, control, _):
        until_ready(control)
        begun = time.monotonic()
        process.terminate()
        process.wait(30)
        assert time.monotonic() - begun < 4, "it waited for the grace of five seconds to run out"
