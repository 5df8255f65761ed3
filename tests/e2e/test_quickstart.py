"""The main job on the example, with the real vLLM; and what happens when something goes wrong."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from e2e.conftest import alive, descendants, git, noted, started, until, vllm_ci
from standin.starved import skip_if_starved

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]

STAGES = ["unit", "integration", "streaming", "security"]


def test_a_commit_becomes_a_tested_image_and_a_second_run_reuses_everything(project: Path) -> None:
    first = vllm_ci(project, "run", "--json")
    skip_if_starved(first.code, json.dumps(first.json))
    assert first.code == 0, first.stderr[-6000:]
    result = first.json
    assert result["verdict"] == "passed"
    assert result["commit"]["dirty"] is False
    assert result["image"]["digest"].startswith("sha256:")
    assert result["engine"] == "host"
    assert [stage["name"] for stage in result["stages"]] == STAGES
    for stage in result["stages"]:
        assert stage["verdict"] == "passed", stage
        assert stage["cases"]["passed"] >= 5, stage
        assert not noted(stage), stage

    folder = Path(result["report_dir"])
    report = json.loads((folder / "report.json").read_text())
    assert report["verdict"] == "passed"
    assert report["double"] is False
    assert report["server"]["version"]
    tests = ET.parse(folder / "junit.xml").getroot().iter("testcase")
    ctrf = json.loads((folder / "ctrf.json").read_text())["results"]["summary"]
    assert len(list(tests)) == ctrf["tests"] == sum(sum(stage["cases"].values()) for stage in result["stages"])
    page = (folder / "report.html").read_text()
    assert result["image"]["digest"] in page
    assert (folder / "logs" / "server.log").read_text()

    built = vllm_ci(project, "build", "--json").json
    assert built["image"]["digest"] == result["image"]["digest"]
    assert not any(layer["built"] for layer in built["layers"])


def test_a_failing_test_of_the_user_fails_the_run_and_the_report_names_it(project: Path) -> None:
    (project / "tests" / "test_wrong.py").write_text("def test_the_earth_is_flat():\n    assert 'round' == 'flat'\n")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "--message", "wrong")
    ended = vllm_ci(project, "run", "--stage", "unit", "--json")
    assert ended.code == 1, ended.stderr[-4000:]
    (stage,) = ended.json["stages"]
    assert stage["verdict"] == "failed"
    assert "test_the_earth_is_flat" in stage["failures"][0]["case"]
    assert "round" in stage["failures"][0]["message"]


def test_a_dirty_tree_is_said_and_tested_as_it_is(project: Path) -> None:
    (project / "serving" / "postprocess.py").write_text(
        "def clean(text):\n    return text\n\n\ndef answer(text):\n    return text\n"
    )
    ended = vllm_ci(project, "run", "--stage", "unit", "--json")
    assert ended.code == 1, ended.stderr[-4000:]
    assert ended.json["commit"]["dirty"] is True
    assert "dirty" in ended.stderr


def test_a_server_that_is_killed_in_a_stage_is_errored_and_its_cases_run_on_a_new_one(project: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started(project, log, "run", "--stage", "integration", "--json") as process:
        until(lambda: "integration: started" in log.read_text() or process.poll() is not None, "the stage")
        below = descendants(process.pid)
        servers = [pid for pid in below if "api_server" in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")]
        assert servers, log.read_text()
        os.kill(servers[-1], signal.SIGKILL)
        assert process.stdout is not None
        output = process.stdout.read()
        assert process.wait(120) == 3, log.read_text()[-4000:]
    result = json.loads(output)
    assert result["verdict"] == "errored"
    (failure,) = [each for each in result["stages"][0]["failures"] if each["case"] and "the server died" in each["message"]]
    # The other cases were run on a new server.
    assert "did not happen again when the case was repeated on a new server" in failure["message"]
    cases = result["stages"][0]["cases"]
    assert sum(cases.values()) > 180, "no case is lost"
    assert cases["passed"] > 150
    until(lambda: not any(map(alive, below)), "the end of all processes", 30)


def test_ctrl_c_while_serving_stops_everything(project: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started(project, log, "serve", "--name", "e2e-ctrl-c") as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), log.read_text()[-4000:]
        with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:
            assert answer.status == 200
        listed = vllm_ci(project, "server", "list", "--json").json["servers"]
        assert ("e2e-ctrl-c", url) in [(each["name"], each["url"]) for each in listed]
        below = descendants(process.pid)
        assert below
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
    until(lambda: not any(map(alive, below)), "the end of all processes", 30)
    assert "e2e-ctrl-c" not in [each["name"] for each in vllm_ci(project, "server", "list", "--json").json["servers"]]


def test_a_port_that_is_taken_is_errored_with_its_remedy(project: Path) -> None:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ended = vllm_ci(project, "run", "--stage", "streaming", "--port", str(listener.getsockname()[1]))
    assert ended.code == 3
    assert "is already in use" in ended.stderr
    assert "--port" in ended.stderr


def test_a_small_real_model_is_made_from_its_wheel_and_speaks(project: Path, tmp_path: Path) -> None:
    config = project / "vllm-ci.yaml"
    config.write_text(config.read_text().replace("  generate_api_key: true\n", ""))
    log = tmp_path / "log"
    with started(project, log, "serve", "--name", "e2e-smollm2", "--model", "smollm2") as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        said = log.read_text()
        if "is not available anywhere" in said:
            pytest.skip("the package index does not have the wheel of the model")
        assert url.startswith("http://127.0.0.1:"), said[-4000:]
        question = {"role": "user", "content": "What is the capital of France? Answer with one word."}
        body = {"model": "smollm2", "messages": [question], "temperature": 0, "max_tokens": 20}
        asked = urllib.request.Request(
            f"{url}/v1/chat/completions", json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=300) as answer:
            assert "Paris" in json.load(answer)["choices"][0]["message"]["content"]
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
