"""The stage ``performance`` on the host engine: real processes in the place of two images, started again and again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from standin.repository import repository

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[2]
CONFIG = """
version: 1
name: mine
stages:
  unit: {enabled: false}
  integration: {enabled: false}
  streaming: {enabled: false}
  security: {enabled: false}
  performance: {enabled: true, workload: code, requests: 8, warm_up: 1, rounds: 2, concurrency: 8, pairs: {min: 3, max: 3}}
"""


def started(folder: Path, **variables: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_CI_", "STANDIN_"))}
    path = os.pathsep.join((str(TESTS.parent / "pipeline"), str(TESTS)))
    own = {"VLLM_CI_HOME": str(folder.parent / "home"), "VLLM_CI_ENGINE": "host", "PYTHONPATH": path}
    return subprocess.Popen(
        [sys.executable, "-m", "standin.comparing", "run", "--json"],
        cwd=folder,
        env={**kept, **own, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any], Path]:
    """Exit code, the stage in the report, and the folder of the report."""
    stdout, stderr = process.communicate(timeout=240)
    assert stdout.startswith("{"), stderr
    folder = Path(json.loads(stdout)["report_dir"])
    (stage,) = json.loads((folder / "report.json").read_text())["stages"]
    return process.returncode, stage, folder


def test_a_slower_image_fails_and_the_report_shows_by_how_much(tmp_path: Path) -> None:
    code, stage, folder = ended(started(repository(tmp_path / "mine", config=CONFIG), STANDIN_SLOWDOWN="0.8"))
    assert (code, stage["verdict"]) == (1, "failed"), stage["message"]
    found = stage["metrics"]["comparison"]
    assert len(found["pairs"]) == 3
    assert 0.5 < found["estimates"]["tpot_ms"]["slowdown"] < 1.2
    rounds = [rounds[0] for pair in found["pairs"] for rounds in pair["rounds"].values()]
    tokens = {each["counters"]["output_tokens"] for each in rounds}
    assert len(tokens) == 1, "all starts were asked the same"
    page = (folder / "report.html").read_text()
    assert "<th>metric</th>" in page
    assert "channel production" in page
    assert {"performance-baseline.log", "performance-candidate.log"} <= {path.name for path in (folder / "logs").iterdir()}


def test_an_image_that_does_not_start_is_an_error_with_the_known_cause(tmp_path: Path) -> None:
    code, stage, _ = ended(started(repository(tmp_path / "mine", config=CONFIG), STANDIN_CANDIDATE="silent"))
    assert (code, stage["verdict"]) == (3, "errored")
    assert "the candidate: the server did not start" in stage["message"]
    assert "No available memory for the cache blocks" in stage["message"]


def test_ctrl_c_keeps_the_finished_pairs(tmp_path: Path) -> None:
    process = started(repository(tmp_path / "mine", config=CONFIG.replace("min: 3, max: 3", "min: 50, max: 50")))
    end = time.monotonic() + 120
    while len(list((tmp_path / "home/work").glob("*/*-measure"))) < 3:  # the first pair is complete
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    code, stage, _ = ended(process)
    assert code == 130
    assert stage["verdict"] == "errored"
    assert stage["message"].startswith("interrupted by SIGINT")
    found = stage["metrics"]["comparison"]
    assert found["pairs"] or found["untrusted"], "on a busy machine, the pair may be one that is repeated"
