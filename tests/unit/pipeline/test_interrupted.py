"""A run that is stopped from outside leaves a report of what it had found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from standin.project import Ended, Project, project

pytestmark = pytest.mark.slow


def until(condition: Callable[[], object], process: subprocess.Popen[str], within_s: float = 90) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def reports(made: Project) -> list[Path]:
    return list((made.folder / ".vllm-ci" / "runs").glob("2*/report.json"))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stage_in_the_middle_keeps_its_finished_cases(tmp_path: Path, number: signal.Signals) -> None:
    made = project(tmp_path, slow_s=300)
    with made.started() as process:
        until(made.waiting.exists, process)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    ended = Ended(process.returncode, stdout, stderr)
    assert ended.code == 130, stderr
    assert f"stopped by {number.name}" in stderr
    assert ended.json["verdict"] == "errored"
    cases = {case["name"].partition("::")[2]: case["status"] for case in ended.stage("integration")["cases"]}
    assert cases == {"test_first": "passed", "test_second": "passed", "test_slow": "errored"}
    assert ended.stage("integration")["message"] == f"interrupted by {number.name} before it finished"
    assert ended.stage("streaming")["message"] == f"not run (interrupted by {number.name})"
    assert ended.report["problem"]["summary"] == f"interrupted by {number.name}"
    assert ended.report["server"]["version"] == "9.9"
    assert "test_first" in (ended.folder / "junit.xml").read_text()
    assert json.loads((ended.folder / "ctrf.json").read_text())["results"]["summary"]["passed"] >= 2
    assert "***" in (ended.folder / "logs" / "server.log").read_text()


def test_the_report_does_not_wait_for_a_server_that_does_not_stop_and_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    made = project(tmp_path, slow_s=300)
    with made.started(STANDIN_SERVER="deaf") as process:
        until(made.waiting.exists, process)
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        until(lambda: reports(made), process, 20)
        assert time.monotonic() - begun < 8  # the server has 40 s to stop, the CI gives about 10
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        stdout, _ = process.communicate(timeout=10)
    assert process.returncode == 130
    assert json.loads(stdout)["verdict"] == "errored"


def test_what_is_stopped_while_the_server_starts_has_its_log(tmp_path: Path) -> None:
    made = project(tmp_path)
    with made.started("run", "--json", "--stage", "integration", STANDIN_SERVER="silent") as process:
        until(lambda: "the server's key" in "".join(path.read_text() for path in made.home.glob("work/*/*-vllm/log")), process)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=60)
    ended = Ended(process.returncode, stdout, stderr)
    assert ended.code == 130
    assert ended.stage("integration")["message"] == "not run (interrupted by SIGTERM)"


def test_a_stage_that_had_ended_keeps_its_verdict_and_nothing_is_left_running(tmp_path: Path) -> None:
    made = project(tmp_path, slow_s=300)
    # `streaming` ends before `integration` begins only in the order of the stages; unit runs beside, and ends by itself.
    with made.started() as process:
        pids: list[int] = []
        until(made.waiting.exists, process)
        until(lambda: "unit" in _finished(process), process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8")
        pids += [int(child) for child in children.split()]
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=60)
    ended = Ended(process.returncode, stdout, stderr)
    assert ended.stage("unit")["verdict"] == "passed"
    assert pids
    end = time.monotonic() + 20
    while any(map(alive, pids)):
        assert time.monotonic() < end
        time.sleep(0.1)


def _finished(process: subprocess.Popen[str]) -> str:
    """What the command wrote so far to standard error, without waiting for more."""
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)
    try:
        text = process.stderr.read() or ""
    except TypeError:
        text = ""
    _SEEN[process.pid] = _SEEN.get(process.pid, "") + text
    return "unit" if "✓ unit" in _SEEN[process.pid] else ""


_SEEN: dict[int, str] = {}
