"""``vllm-ci bench --overload`` through the command line, on servers that answer one request at a time."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from doubles.running import running
from standin.crowded import Crowded
from vllm_ci.cli import root

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT / 'pipeline'}:{ROOT / 'tests'}"}


@contextmanager
def server(mode: str) -> Iterator[str]:
    """A server in a process of its own, which can end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "tests/standin/crowded.py"), str(port), "double", mode]
    with subprocess.Popen(command, env=ENVIRONMENT) as process:
        try:
            until = time.monotonic() + 30
            while time.monotonic() < until:
                with socket.socket() as probe:
                    if not probe.connect_ex(("127.0.0.1", port)):
                        break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def started(url: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vllm_ci", "bench", "--url", url, "--overload", "--json", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    while text not in (line := process.stderr.readline()):
        if not line:  # it has ended
            _, document = ended(process)
            measurable(document)
            pytest.fail(f"it ended before it said {text!r}: {document}")


def ended(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any]]:
    stdout, stderr = process.communicate(timeout=120)
    assert stdout, stderr
    return process.returncode, json.loads(stdout)


def measurable(document: dict[str, Any]) -> None:
    """Skip where this machine was too busy."""
    if document["verdict"] == "inconclusive":
        pytest.skip(f"this machine was too busy to measure: {document['reasons']}")


def test_the_phases_and_a_sentence_are_printed_and_the_result_has_a_history(tmp_path: Path) -> None:
    with running(lambda: Crowded("refuses")) as (url, _):
        arguments = ["--workload-file", str(ROOT / "tests/unit/cli/short.jsonl"), "--duration", "1.2", "--overload"]
        found = CliRunner().invoke(root, ["bench", "--url", url, *arguments, "--report-dir", str(tmp_path)])
    if "the client sent requests" in found.stdout:
        pytest.skip("this machine was too busy to measure")
    assert found.return_value == 0 or not found.exit_code, found.output
    assert "calm" in found.stdout
    assert "refused with Retry-After" in found.stdout
    assert "times its capacity of" in found.stdout
    assert found.stdout.rstrip().endswith("passed"), found.stdout
    history = json.loads(CliRunner().invoke(root, ["bench", "history", str(tmp_path), "--json"]).stdout)
    assert history["results"] == 1
    assert {"capacity_per_s", "overload_served_per_s"} <= {each["metric"] for each in history["series"]}
    assert all("cores" in each["group"]["hardware"] for each in history["series"]), "the server runs on this machine"


def test_a_server_that_dies_gives_errored_and_keeps_what_was_measured() -> None:
    with server("dies") as url:
        code, document = ended(started(url, "--workload-file", str(ROOT / "tests/unit/cli/short.jsonl"), "--duration", "3"))
    measurable(document)
    assert code == 3
    assert document["verdict"] == "errored"
    assert "takes no connection any more" in " ".join(document["reasons"])
    assert document["search"]
    assert document["kind"] == "overload"
    assert document["model"] == "double"


def test_a_signal_ends_it_and_what_was_measured_is_printed() -> None:
    with server("queues") as url:
        bench = started(url, "--workload-file", str(ROOT / "tests/unit/cli/short.jsonl"), "--duration", "6", "--rate", "5")
        wait_for(bench, "until latency is back")
        time.sleep(2)
        bench.send_signal(signal.SIGINT)
        code, document = ended(bench)
    assert code == 3
    assert document["interrupted"]
    assert document["capacity_per_s"] > 0
    assert document["calm"]["outcomes"]["served"] > 0
    assert document["overload"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--concurrency", "4"], "cannot be used with --concurrency"),
        (["--sweep", "--ttft", "100"], "measures one server"),
        (["--aa"], "measures one server"),
        (["--url", "http://127.0.0.1:8"], "measures one server"),
    ],
)
def test_options_that_contradict_an_overload_are_refused_before_anything_is_sent(arguments: list[str], said: str) -> None:
    found = CliRunner().invoke(root, ["bench", "--url", "http://127.0.0.1:9", "--overload", *arguments])
    assert said in str(found.exception)


def test_a_file_with_arrival_times_needs_a_rate(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text('{"prompt": "hello", "max_tokens": 2, "at_s": 1}\n')
    found = CliRunner().invoke(root, ["bench", "--url", "http://127.0.0.1:9", "--overload", "--workload-file", str(file)])
    assert "arrival times of its own" in str(found.exception)
