"""Servers and pipelines of the user's own with the module, on a real Dagger engine."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from doubles.running import running
from doubles.server import Double
from e2e.conftest import ROOT, Dagger, dagger_cli, environment, git, until

pytestmark = [pytest.mark.e2e, pytest.mark.engine_dagger, pytest.mark.timeout(2400)]


def test_a_server_that_is_already_running_is_tested(dagger: Dagger) -> None:
    with running(Double) as (url, double):
        port = url.rpartition(":")[2]
        given = ("call", "--source=.", "run", f"--server=tcp://localhost:{port}", "--stages=integration")
        ended = dagger(*given, "summary")
        assert "integration" in ended.stdout, ended.stderr[-4000:]
        assert "passed" in ended.stdout, ended.stdout
        assert double.counts["requests"], "the server was asked"
    ended = dagger(*given, "assert-passed")
    assert ended.code == 3, "a server that does not listen gives no verdict"


def test_the_server_is_brought_up_for_manual_use_and_ends_with_the_call(
    dagger_engine: None,  # noqa: ARG001
    checkout: Path,
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["dagger", "--progress=plain", "-m", str(ROOT), "call", "--source=.", "serve", "up", f"--ports={port}:8000"]
    with (checkout.parent / "up.log").open("w", encoding="utf-8") as log:
        up = subprocess.Popen(command, cwd=checkout, env=environment() | {"DO_NOT_TRACK": "1"}, stdout=log, stderr=log)
    try:
        models = until(lambda: up.poll() is not None or answer(port, "/v1/models"), "a server", 1200)
        assert up.poll() is None, (checkout.parent / "up.log").read_text(encoding="utf-8")[-4000:]
        body = {"model": models["data"][0]["id"], "prompt": "Hello", "max_tokens": 4}
        completion = answer(port, "/v1/completions", body)
        assert completion["usage"]["completion_tokens"] == 4
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(60)
    assert answer(port, "/v1/models") is None


def test_the_example_with_its_own_pipeline_runs_in_containers(
    dagger_engine: None,  # noqa: ARG001
    own_pipeline: Path,
    tmp_path: Path,
) -> None:
    script = f"{ROOT} --source . | run | report | export {tmp_path / 'report'}"
    ended = dagger_cli(own_pipeline, "-c", script)
    assert ended.code == 0, ended.stderr[-6000:]
    report = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert {each["name"]: (each["verdict"], len(each["cases"])) for each in report["stages"]} == {
        "versions": ("passed", 1),
        "smoke": ("passed", 2),
        "latency": ("passed", 3),
    }


@pytest.fixture
def own_pipeline(tmp_path: Path, spec: str) -> Path:
    """The example as a user's own repository; a container sees nothing outside of it."""
    folder = tmp_path / "own-pipeline"
    ignored = shutil.ignore_patterns(".vllm-ci", "__pycache__")
    shutil.copytree(ROOT / "examples" / "own-pipeline", folder, ignore=ignored)
    if Path(spec).is_absolute():
        shutil.copytree(Path(spec).parent, folder / "image")
        config = folder / "vllm-ci.yaml"
        config.write_text(config.read_text().replace("  spec: cpu\n", f"  spec: image/{Path(spec).name}\n"))
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "own pipeline")
    return folder


def answer(port: int, path: str, body: Any = None) -> Any:
    """The JSON of a server's answer; ``None`` if it does not answer."""
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as found:
            return json.load(found)
    except OSError:
        return None
