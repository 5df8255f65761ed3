"""``vllm-ci bench`` that ends early: a killed server, Ctrl-C, SIGTERM. What was measured is printed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT / 'pipeline'}:{ROOT / 'tests'}"}
SERVER = """
import time
from doubles.running import running
from doubles.server import Double

with running(Double) as (url, _):
    print(url, flush=True)
    time.sleep(120)
"""


@pytest.fixture
def server() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
        process.kill()


def started(url: str, *arguments: str) -> subprocess.Popen[str]:
    warm_up = [] if "--sweep" in arguments else ["--warm-up", "0"]  # a sweep has none
    command = [sys.executable, "-m", "vllm_ci", "bench", "--url", url, "--json", *warm_up, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def ended(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any], float]:
    """Exit code, document, and seconds that the end took."""
    begun = time.monotonic()
    stdout, stderr = process.communicate(timeout=60)
    assert stdout, stderr
    return process.returncode, json.loads(stdout), time.monotonic() - begun


def under_load(process: subprocess.Popen[str], seconds: float = 4.0) -> None:
    """Wait until the load runs: the introduction was printed, and some time has passed."""
    assert process.stderr is not None
    while "chat-v1" not in process.stderr.readline():
        assert process.poll() is None, process.stderr.read()
    time.sleep(seconds)


@pytest.mark.parametrize("loop", [("--rate", "20"), ("--concurrency", "4")])
def test_a_server_that_dies_gives_errored_and_keeps_what_was_measured(
    server: tuple[str, subprocess.Popen[str]], loop: tuple[str, str]
) -> None:
    url, process = server
    bench = started(url, *loop, "--duration", "60")
    under_load(bench)
    process.kill()
    code, document, seconds = ended(bench)
    assert code == 3
    assert document["verdict"] == "errored"
    assert document["figures"]["requests"] >= 1
    assert document["figures"]["ttft_ms"]["mean"] > 0
    assert "takes no connection any more" in " ".join(document["reasons"])
    assert seconds < 40, "the rest of the minute is not waited for"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("loop", [("--rate", "20"), ("--concurrency", "4")])
def test_a_signal_ends_the_load_and_what_was_measured_is_printed(
    server: tuple[str, subprocess.Popen[str]], number: signal.Signals, loop: tuple[str, str]
) -> None:
    bench = started(server[0], *loop, "--duration", "60")
    under_load(bench)
    bench.send_signal(number)
    code, document, seconds = ended(bench)
    assert code == 3
    assert document["interrupted"]
    assert document["figures"]["requests"] >= 1
    assert "interrupted" in " ".join(document["reasons"])
    assert seconds < 30


def test_an_interrupted_sweep_keeps_its_steps(server: tuple[str, subprocess.Popen[str]], tmp_path: Path) -> None:
    bench = started(server[0], "--sweep", "--ttft", "1000", "--good", "0.5", "--rate", "8", "--report-dir", str(tmp_path))
    under_load(bench, 0)
    assert bench.stderr is not None
    while "good" not in bench.stderr.readline():
        assert bench.poll() is None
    bench.send_signal(signal.SIGINT)
    code, document, _ = ended(bench)
    if "client" in (reasons := " ".join(document["reasons"])):
        pytest.skip(f"this machine was too busy for a sweep, which ended by itself: {reasons}")
    assert code == 3
    assert len(document["steps"]) >= 1
    assert (tmp_path / "sweep.html").exists()
    (stored,) = tmp_path.glob("bench-*.json")
    assert json.loads(stored.read_text()) == document


def test_an_interrupted_comparison_keeps_its_rounds(server: tuple[str, subprocess.Popen[str]]) -> None:
    bench = started(server[0], "--aa", "--rounds", "20", "--duration", "40")
    under_load(bench, 0)
    assert bench.stderr is not None
    while "round 2 of" not in bench.stderr.readline():
        assert bench.poll() is None
    bench.send_signal(signal.SIGTERM)
    code, document, _ = ended(bench)
    assert code == 3
    assert len(document["rounds"]) >= 2
