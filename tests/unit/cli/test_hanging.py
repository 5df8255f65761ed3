"""A git server that takes connections and never answers: the command ends at the deadline, or when it is told to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def silent() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def folder(tmp_path: Path, silent: int) -> Path:
    place = tmp_path / "project"
    place.mkdir()
    ledger = f"release: {{ledger: {{repository: 'http://127.0.0.1:{silent}/ledger.git'}}}}\n"
    (place / "vllm-ci.yaml").write_text(f"version: 1\n{ledger}", encoding="utf-8")
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    for arguments in (("init", "--quiet"), ("add", "."), (*identity, "commit", "--quiet", "--message", "x")):
        subprocess.run(["git", *arguments], cwd=place, check=True)
    return place


def history(folder: Path, tmp_path: Path, **more: str) -> subprocess.Popen[str]:
    env = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    env |= {"VLLM_CI_HOME": str(tmp_path / "home"), "PYTHONPATH": os.pathsep.join(part for part in sys.path if part), **more}
    argv = [sys.executable, "-m", "vllm_ci", "history"]
    return subprocess.Popen(argv, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def places(tmp_path: Path) -> list[Path]:
    found = (tmp_path / "home" / "tmp").glob("*")
    return [path for path in found if path.name != ".sweep"]


def test_at_the_deadline_the_command_names_the_program_the_time_and_the_remedy(folder: Path, tmp_path: Path) -> None:
    process = history(folder, tmp_path, VLLM_CI_PROGRAM_TIMEOUT_S="2")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3, errors
    assert "git fetch did not end within 2 s" in errors
    assert "do:  check that the repository's server responds" in errors
    assert "VLLM_CI_PROGRAM_TIMEOUT_S" in errors
    assert places(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_command_and_what_it_started(folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    process = history(folder, tmp_path)
    end = time.monotonic() + 60
    while not places(tmp_path):
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.5)  # git has begun to ask
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"stopped by {number.name}" in errors or (number is signal.SIGINT and "interrupted" in errors)
    assert places(tmp_path) == []
