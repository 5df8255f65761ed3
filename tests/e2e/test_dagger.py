"""The module and the plain client on a real Dagger engine, beside the engine that needs no containers."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from e2e.conftest import ROOT, Dagger, git, vllm_ci

pytestmark = [pytest.mark.e2e, pytest.mark.engine_dagger, pytest.mark.timeout(2400)]


def test_the_functions_are_listed_with_what_they_do(dagger: Dagger) -> None:
    ended = dagger("functions")
    assert ended.code == 0, ended.stderr[-4000:]
    for name in ("build", "image", "push", "run", "serve", "test", "publish", "promote", "rollback", "history", "verify"):
        assert f"\n{name} " in ended.stdout
    assert not (ROOT / "sdk").exists(), "nothing is written into the checkout"


def test_containers_and_processes_build_the_same_image(dagger: Dagger, checkout: Path) -> None:
    here = vllm_ci(checkout, "build", "--json")
    there = dagger("call", "build", "--source", ".")
    assert there.code == 0, there.stderr[-6000:]
    assert there.stdout.strip() == here.json["image"]["digest"]


@pytest.mark.usefixtures("dagger_engine")
def test_the_main_job_passes_in_containers_with_the_digest_of_processes(checkout: Path) -> None:
    pytest.importorskip("dagger")
    ended = vllm_ci(checkout, "run", "--engine", "dagger", "--json")
    assert ended.code == 0, ended.stderr[-6000:]
    result = ended.json
    assert (result["engine"], result["verdict"]) == ("dagger", "passed")
    assert [stage["verdict"] for stage in result["stages"]] == ["passed"] * 4
    assert result["image"]["digest"] == vllm_ci(checkout, "build", "--json").json["image"]["digest"]
    assert (Path(result["report_dir"]) / "logs" / "server.log").read_text()


def test_the_main_job_passes_as_a_function_and_prints_its_table(dagger: Dagger, checkout: Path) -> None:
    ended = dagger("call", "test", "--source", ".")
    assert ended.code == 0, ended.stdout[-3000:] + ended.stderr[-6000:]
    for stage in ("unit", "integration", "streaming", "security"):
        assert any(line.split()[:2] == [stage, "passed"] for line in ended.stdout.splitlines()), ended.stdout
    assert vllm_ci(checkout, "build", "--json").json["image"]["digest"] in ended.stdout


def test_a_red_run_gives_report_and_exit_code_from_one_run_of_the_stages(
    dagger: Dagger, checkout: Path, tmp_path: Path
) -> None:
    (checkout / "tests" / "test_wrong.py").write_text("def test_the_earth_is_flat():\n    assert 'round' == 'flat'\n")
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "wrong")
    report = tmp_path / "report"
    script = f"run=$({ROOT} | run --source . --stages unit); $run | report | export {report}; $run | assert-passed"
    ended = dagger("-c", script)
    assert ended.code == 1, ended.stderr[-4000:]
    assert json.loads((report / "report.json").read_text())["verdict"] == "failed"
    failed = [
        case.get("name")
        for case in ET.parse(report / "junit.xml").getroot().iter("testcase")
        if case.find("failure") is not None
    ]
    assert len(failed) == 1
    assert "test_the_earth_is_flat" in str(failed[0])
    assert ended.stderr.count("unit: started") == 1, "the stages ran once for both answers"


def test_a_call_that_fails_with_a_red_stage_has_its_exit_code(dagger: Dagger, checkout: Path) -> None:
    (checkout / "tests" / "test_wrong.py").write_text("def test_the_earth_is_flat():\n    assert 'round' == 'flat'\n")
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "wrong")
    ended = dagger("call", "test", "--source", ".", "--stages", "unit")
    assert ended.code == 1
    assert "test_the_earth_is_flat" in ended.stdout + ended.stderr


def test_mistakes_end_with_the_exit_code_of_mistakes_and_a_way_out(dagger: Dagger, checkout: Path, tmp_path: Path) -> None:
    ended = dagger("call", "--config", "nowhere.yaml", "build", "--source", ".")
    assert ended.code == 2
    assert "the source has no nowhere.yaml" in ended.stderr

    git(checkout, "worktree", "add", "--quiet", str(tmp_path / "worktree"))
    ended = dagger("call", "build", "--source", str(tmp_path / "worktree"))
    assert ended.code == 2
    assert "git worktree" in ended.stderr


def test_an_engine_without_gpus_says_how_to_start_one_with(dagger: Dagger) -> None:
    ended = dagger("call", "test", "--source", ".", "--stages", "integration", "--gpus", "all")
    if "✓ server" in ended.stderr:
        pytest.skip("this engine hands out GPUs")
    assert ended.code == 3
    assert "_EXPERIMENTAL_DAGGER_GPU_SUPPORT=1" in ended.stderr


def test_the_container_can_be_chained_on(dagger: Dagger) -> None:
    code = "import vllm; print('version ' + vllm.__version__)"
    ended = dagger("call", "image", "--source", ".", "with-exec", f"--args=/opt/vllm/bin/python,-c,{code}", "stdout")
    assert ended.code == 0, ended.stderr[-4000:]
    assert "version 0." in ended.stdout
