"""What keeps stages from being run is in the report, once, with its log; what was found beside it stays."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from standin.project import Ended, Project, project

pytestmark = pytest.mark.slow

LOGS = Path(__file__).parents[1] / "domain" / "startup_logs"
CAUSE = "ValueError: To serve at least one request with the model's max seq len (2048)"


@pytest.fixture(scope="module")
def not_started(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A run whose server ends as the real one did whose KV cache was too small, and prints its key before that."""
    made = project(tmp_path_factory.mktemp("run"))
    return made.run(STANDIN_SERVER="dies", STANDIN_LOG=str(LOGS / "kv_small_mp.log"))


def test_a_server_that_does_not_start_is_an_errored_verdict_with_a_report(not_started: Ended) -> None:
    assert not_started.code == 3, not_started.stderr
    assert not_started.json["verdict"] == "errored"
    assert not_started.report["verdict"] == "errored"
    assert not_started.json["problem"]["cause"].startswith(CAUSE)
    assert "at most 896" in not_started.json["problem"]["change"]


def test_the_unit_stage_that_ran_beside_it_is_kept(not_started: Ended) -> None:
    assert not_started.stage("unit")["verdict"] == "passed"
    assert [case["name"] for case in not_started.stage("unit")["cases"]] == ["inside/test_inside.py::test_inside"]


@pytest.mark.parametrize("name", ["integration", "streaming"])
def test_stages_that_needed_the_server_say_why_they_were_not_run(not_started: Ended, name: str) -> None:
    stage = not_started.stage(name)
    assert stage["verdict"] == "errored"
    assert stage["message"].startswith(f"not run: the server did not start: {CAUSE}")


def test_the_full_log_of_the_server_is_in_the_report_s_folder(not_started: Ended) -> None:
    log = (not_started.folder / "logs" / "server.log").read_text()
    assert "See root cause above" in log
    assert not_started.json["problem"]["log"] == "logs/server.log"
    assert str(not_started.folder / "logs" / "server.log") in not_started.stderr


def test_every_view_says_it_once(not_started: Ended) -> None:
    page = (not_started.folder / "report.html").read_text()
    assert page.count("To serve at least one request") == 1
    assert page.index("the server did not start") < page.index("<h2>Stages</h2>")
    assert 'href="logs/server.log"' in page
    junit = ET.parse(not_started.folder / "junit.xml").getroot()
    assert junit.findall("testsuite")[0].get("name") == "run"
    messages = [str(error.get("message")) for error in junit.iter("error")]
    assert len([message for message in messages if CAUSE in message]) == 1
    assert messages[1:] == ["not run (the server did not start)"] * 2
    ctrf = json.loads((not_started.folder / "ctrf.json").read_text())["results"]
    assert ctrf["summary"]["failed"] == 3
    assert CAUSE in ctrf["tests"][0]["message"]
    assert len([test for test in ctrf["tests"] if CAUSE in str(test)]) == 1
    end = not_started.stderr.partition("\nthe server did not start\n")[2]
    assert end.count(CAUSE) == 1


def test_a_secret_that_the_dying_server_printed_stands_nowhere(not_started: Ended) -> None:
    files = [path for path in not_started.folder.rglob("*") if path.is_file()]
    texts = [not_started.stdout, not_started.stderr, *(path.read_text() for path in files)]
    assert not any("standin-s3cret" in text for text in texts)
    assert "the server's key is ***" in (not_started.folder / "logs" / "server.log").read_text()


def test_a_secret_in_the_cause_itself_is_hidden(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("Traceback (most recent call last):\n  File\nValueError: bad key standin-s3cret\n")
    ended = project(tmp_path).run(STANDIN_SERVER="dies", STANDIN_LOG=str(tmp_path / "log"))
    assert "ValueError: bad key ***" in ended.stdout
    assert "ValueError: bad key ***" in ended.stderr
    assert "standin-s3cret" not in ended.stdout + ended.stderr


def test_an_image_that_cannot_be_built_is_reported_in_the_builder_s_words(tmp_path: Path) -> None:
    said = "fetching\nvllm-ci: the wheel x is damaged\n  why: its hash differs\n  do:  lock it again"
    ended = project(tmp_path).run(STANDIN_BUILD=said)
    assert ended.code == 3, ended.stderr
    assert ended.json["image"] is None
    problem = ended.json["problem"]
    assert (problem["cause"], problem["explanation"], problem["change"]) == (
        "the wheel x is damaged",
        "its hash differs",
        "lock it again",
    )
    for name in ("unit", "integration", "streaming"):
        assert ended.stage(name)["message"] == "not run: the image could not be built: the wheel x is damaged"
    assert "fetching" in (ended.folder / "logs" / "build.log").read_text()


def test_a_model_that_cannot_be_made_is_reported_and_the_unit_stage_kept(tmp_path: Path) -> None:
    said = "Traceback (most recent call last):\n  File\nModuleNotFoundError: No module named 'safetensors'"
    ended = project(tmp_path).run(STANDIN_MODEL=said)
    assert ended.code == 3, ended.stderr
    assert ended.stage("unit")["verdict"] == "passed"
    expected = "not run: the model could not be created: ModuleNotFoundError: No module named 'safetensors'"
    assert ended.stage("integration")["message"] == expected
    assert "safetensors" in (ended.folder / "logs" / "model.log").read_text()


def test_a_server_that_is_never_ready_is_reported_with_its_log(tmp_path: Path) -> None:
    ended = project(tmp_path, ready_s=3).run(STANDIN_SERVER="silent")
    assert ended.code == 3, ended.stderr
    assert "was not ready after 3 s" in ended.json["problem"]["cause"]
    assert "the last readiness check said: /v1/completions" in ended.json["problem"]["explanation"]
    assert "server.ready_timeout_s" in ended.json["problem"]["change"]
    assert "INFO the server's key" in (ended.folder / "logs" / "server.log").read_text()


def test_a_port_that_is_taken_is_reported_with_its_remedy(tmp_path: Path) -> None:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        ended = project(tmp_path).run("run", "--json", "--port", port)
    assert ended.code == 3
    assert ended.json["problem"]["cause"] == f"port {port} is already in use"
    assert "--port" in ended.json["problem"]["change"]


def test_an_engine_that_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("in the way")
    ended = project(tmp_path).run()
    assert ended.code == 3, ended.stderr
    assert ended.json["problem"]["summary"] == "the engine could not be used"
    assert [stage["verdict"] for stage in ended.json["stages"]] == ["errored"] * 3


def test_a_stage_whose_time_runs_out_keeps_the_cases_that_had_ended(tmp_path: Path) -> None:
    ended = project(tmp_path, slow_s=300, timeout_s=25).run("run", "--json", "--stage", "integration")
    assert ended.code == 3, ended.stderr
    cases = {case["name"].partition("::")[2]: case["status"] for case in ended.stage("integration")["cases"]}
    assert cases == {"test_first": "passed", "test_second": "passed", "test_slow": "errored"}
    assert "timed out" in ended.stage("integration")["message"]
    assert ended.report["server"]["version"] == "9.9"


def test_serve_says_the_cause_and_where_the_full_log_is(tmp_path: Path) -> None:
    made: Project = project(tmp_path)
    ended = made.run("serve", STANDIN_SERVER="dies", STANDIN_LOG=str(LOGS / "kv_small_mp.log"))
    assert ended.code == 3
    assert f"the server did not start: {CAUSE}" in ended.stderr
    log = made.home / "servers" / "repository.log"
    assert str(log) in ended.stderr
    assert "See root cause above" in log.read_text()
    assert "standin-s3cret" not in log.read_text()


def test_a_whole_run_has_no_problem_and_knows_its_machine(tmp_path: Path) -> None:
    ended = project(tmp_path).run()
    assert ended.code == 0, ended.stderr
    assert "problem" not in ended.json
    assert ended.report["problem"] is None
    assert ended.report["hardware"]["cores"] >= 1
    assert ended.report["server"]["version"] == "9.9"


def test_a_server_of_a_matrix_that_does_not_start_is_errored_in_its_own_row(tmp_path: Path) -> None:
    made = project(tmp_path)
    config = made.folder / "vllm-ci.yaml"
    config.write_text(config.read_text() + "matrix: {stages: [streaming], axes: {dtype: [bfloat16]}}\n")
    log = str(LOGS / "kv_small_mp.log")
    ended = made.run("run", "--matrix", "--json", STANDIN_SERVER="good,dies", STANDIN_LOG=log)
    assert ended.code == 3, ended.stderr
    assert "problem" not in ended.json
    verdicts = {stage["name"]: stage["verdict"] for stage in ended.json["stages"]}
    (row,) = (name for name in verdicts if "@" in name)
    assert verdicts == {"unit": "passed", "integration": "passed", "streaming": "passed", row: "errored"}
    assert ended.stage(row)["message"].startswith(f"not run: the server did not start: {CAUSE}")
    assert "at most 896" in ended.stage(row)["message"]
    assert "See root cause above" in (ended.folder / "logs" / f"server{row.removeprefix('streaming')}.log").read_text()
