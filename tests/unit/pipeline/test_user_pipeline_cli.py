"""``vllm-ci run`` with a pipeline of the user's own: a process, with small programs in place of an image and of vLLM."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from standin.project import Ended, Project, project

pytestmark = pytest.mark.slow

PIPELINE = """
from vllm_ci import Pipeline, Report, Server, stage


@stage
async def smoke(server: Server) -> None:
    async with server.client() as http:
        answer = await http.post("/v1/completions", json={"model": server.model, "prompt": "hello"})
    assert answer.json()["choices"][0]["text"] == "EXPECTED"


async def pipeline(ci: Pipeline) -> Report:
    image = await ci.build()
    print("what a pipeline prints")
    async with ci.serve(image) as server:
        await ci.test(server, "integration", smoke, "lint")
    return ci.report()
"""


def with_pipeline(tmp_path: Path, text: str, *, slow_s: float = 0.0) -> Project:
    made = project(tmp_path, slow_s=slow_s)
    (made.folder / "ci").mkdir()
    (made.folder / "ci" / "pipeline.py").write_text(text)
    config = made.folder / "vllm-ci.yaml"
    config.write_text(config.read_text() + "  lint: {run: [python, -c, 'print(7)'], in: image}\n")
    return made


def test_it_is_found_and_named_in_the_first_lines_and_its_stages_are_in_every_report(tmp_path: Path) -> None:
    ended = with_pipeline(tmp_path, PIPELINE.replace("EXPECTED", "yes")).run()
    assert ended.code == 0, ended.stderr
    assert "pipeline ci/pipeline.py (found next to vllm-ci.yaml; stages: smoke)" in ended.stderr.splitlines()[:4]
    assert [stage["name"] for stage in ended.json["stages"]] == ["integration", "smoke", "lint"]
    assert 'testsuite name="smoke"' in (ended.folder / "junit.xml").read_text()
    assert "what a pipeline prints" in ended.stderr
    assert not (ended.folder.parents[2] / "ci" / "__pycache__").exists()


def test_a_stage_of_one_s_own_that_fails_is_exit_code_1_with_the_user_s_line(tmp_path: Path) -> None:
    ended = with_pipeline(tmp_path, PIPELINE.replace("EXPECTED", "no")).run("run", "--json", "--stage", "smoke")
    assert ended.code == 1, ended.stderr
    (stage,) = ended.json["stages"]
    assert stage["failures"][0]["message"].startswith("ci/pipeline.py:9: assert answer.json()")


def test_an_error_in_it_is_exit_code_3_with_a_report_and_no_traceback(tmp_path: Path) -> None:
    ended = with_pipeline(tmp_path, PIPELINE.replace("EXPECTED", "yes").replace("return ci.report()", "return nothing")).run()
    assert ended.code == 3, ended.stderr
    assert ended.json["problem"]["cause"].startswith("ci/pipeline.py:17: NameError: name 'nothing'")
    assert "Traceback" not in ended.stderr
    assert ended.stage("integration")["verdict"] == "passed"
    assert "NameError" in (ended.folder / "logs" / "pipeline.log").read_text()


def test_a_file_that_cannot_be_imported_is_exit_code_2(tmp_path: Path) -> None:
    ended = with_pipeline(tmp_path, "import missing_module\n").run()
    assert ended.code == 2
    assert "vllm-ci: ci/pipeline.py:1: ModuleNotFoundError: No module named 'missing_module'" in ended.stderr
    assert "Traceback" not in ended.stderr
    unknown = with_pipeline(tmp_path / "again", PIPELINE).run("run", "--stage", "smok")
    assert unknown.code == 2
    assert "did you mean smoke?" in unknown.stderr


def test_a_pipeline_cannot_end_the_run_with_success_by_exiting(tmp_path: Path) -> None:
    leave = "import asyncio, sys\n    async def leave(): sys.exit(0)\n    await asyncio.create_task(leave())"
    ended = with_pipeline(tmp_path, PIPELINE.replace("EXPECTED", "yes").replace("return ci.report()", leave)).run()
    assert ended.code == 3, ended.stderr
    assert ended.json["problem"]["cause"].endswith("SystemExit: 0")
    assert ended.stage("integration")["verdict"] == "passed"


def test_an_interruption_keeps_what_was_found(tmp_path: Path) -> None:
    made = with_pipeline(tmp_path, PIPELINE, slow_s=300)
    with made.started() as process:
        end = time.monotonic() + 90
        while not made.waiting.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=60)
    ended = Ended(process.returncode, stdout, stderr)
    assert ended.code == 130, stderr
    assert ended.report["problem"]["summary"] == "interrupted by SIGTERM"
    assert ended.stage("integration")["message"] == "interrupted by SIGTERM before it finished"
    assert ended.stage("smoke")["message"] == "not run (interrupted by SIGTERM)"


def test_a_stage_that_never_awaits_is_stopped_by_a_signal_and_the_report_is_written(tmp_path: Path) -> None:
    blocking = "    open('blocked', 'w').close()\n    while True: pass\n"
    made = with_pipeline(
        tmp_path,
        PIPELINE.replace("    async with server.client() as http:", f"{blocking}    async with server.client() as http:"),
    )
    with made.started() as process:
        end = time.monotonic() + 60
        while not (made.folder / "blocked").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=30)
    ended = Ended(process.returncode, stdout, stderr)
    assert ended.code == 130, ended.stderr
    verdicts = {stage["name"]: stage["verdict"] for stage in ended.report["stages"]}
    assert verdicts == {"integration": "passed", "smoke": "errored", "lint": "errored"}
    assert ended.report["problem"]["summary"].startswith("interrupted by SIGTERM, while code that does not await")
    assert "vllm-ci: stopped by SIGTERM" in ended.stderr
