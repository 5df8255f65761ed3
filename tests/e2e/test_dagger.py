"""The module and the plain client on a real Dagger engine, beside the engine that needs no containers."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tarfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from e2e.conftest import ROOT, Dagger, dagger_cli, git, vllm_ci

pytestmark = [pytest.mark.e2e, pytest.mark.engine_dagger, pytest.mark.timeout(2400)]


# What dagger.json of the module includes.
INCLUDED = {
    *("dagger.json", "hatch_build.py", "pyproject.toml", "requirements.lock", ".python-version", "LICENSE"),
    *("pipeline", "images"),
}
IGNORED = {"__pycache__"}


@pytest.mark.usefixtures("dagger_engine")
def test_the_module_is_loaded_from_what_it_needs_and_nothing_else(checkout: Path) -> None:
    """Anything else in it would load the module again with each commit: documents, tests, .git."""
    ended = dagger_cli(checkout, "core", "module-source", "--ref-string", str(ROOT), "context-directory", "entries")
    assert {name.rstrip("/") for name in ended.stdout.split()} == INCLUDED, ended.stderr[-4000:]


def test_the_functions_are_listed_with_what_they_do(dagger: Dagger) -> None:
    ended = dagger("functions")
    assert ended.code == 0, ended.stderr[-4000:]
    for name in (
        "build",
        "run",
        "serve",
        "release",
        "model",
        "retrain",
        "doctor",
        "test",
        "unit",
        "integration",
        "streaming",
        "security",
    ):
        assert f"\n{name} " in ended.stdout
    assert not (ROOT / "sdk").exists(), "nothing is written into the checkout"


@pytest.mark.parametrize(
    ("call", "shown"),
    [
        (["--help"], ["--source", "Checkout of the repository", "--variant CONFIGURED,CPU,CUDA", "--gpus"]),
        (["run", "--help"], ["verdict", "Verdict of the run", "report", "report.html and logs", "--stages"]),
        (["run", "stage", "--name=unit", "--help"], ["failed", "Number of cases that failed"]),
        (["build", "--help"], ["dirty", "uncommitted changes", "as-tarball", "push"]),
        (["release", "--help"], ["--key", "Private key (PEM)", "publish", "rollback", "policy"]),
        (["release", "publish", "--help"], ["--run", "Run the stages first", "--channel"]),
        (["model", "--help"], ["--key", "Private key (PEM)", "add", "pull", "alias", "signature", "list"]),
        (["model", "add", "--help"], ["--path", "Folder of a checkpoint", "--gguf", "--hub", "--license", "SPDX"]),
        (["retrain", "--help"], ["--plan", "retrain.yaml beside the configuration", "--data", "check", "run"]),
        (["retrain", "run", "--help"], ["--promote", "champion's alias", "--reason"]),
    ],
)
def test_help_explains_functions_fields_and_arguments(dagger: Dagger, call: list[str], shown: list[str]) -> None:
    ended = dagger("call", *call)
    assert ended.code == 0, ended.stderr[-4000:]
    text = " ".join(ended.stdout.split())
    assert [each for each in shown if each not in text] == []


def test_containers_and_processes_build_the_same_image(dagger: Dagger, checkout: Path, tmp_path: Path) -> None:
    here = vllm_ci(checkout, "build", "--json").json["image"]
    there = dagger("call", "--source", ".", "build", "digest")
    assert there.code == 0, there.stderr[-6000:]
    assert there.stdout.strip() == here["digest"]
    summary = dagger("call", "--source", ".", "build", "summary")
    assert f"tags     {here['tags'][0]}" in summary.stdout
    bill = dagger("call", "--source", ".", "build", "sbom", "contents")
    assert json.loads(bill.stdout)["metadata"]["component"]["version"] == here["digest"]
    exported = dagger("call", "--source", ".", "build", "as-tarball", "export", "--path", str(tmp_path / "image.tar"))
    assert exported.code == 0, exported.stderr[-4000:]
    with tarfile.open(tmp_path / "image.tar") as archive:
        index = json.load(archive.extractfile("index.json") or io.BytesIO())
    assert here["digest"] in {each["digest"] for each in index["manifests"]}


def test_an_image_of_changes_that_are_not_committed_says_so(dagger: Dagger, checkout: Path) -> None:
    (checkout / "README.md").write_text("changed\n")
    ended = dagger("call", "--source", ".", "build", "dirty")
    assert ended.stdout.strip() == "true"
    assert "note: the work tree is dirty" in ended.stderr


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
    ended = dagger("call", "--source", ".", "test")
    assert ended.code == 0, ended.stdout[-3000:] + ended.stderr[-6000:]
    for stage in ("unit", "integration", "streaming", "security"):
        assert any(line.split()[:2] == [stage, "passed"] for line in ended.stdout.splitlines()), ended.stdout
    assert vllm_ci(checkout, "build", "--json").json["image"]["digest"] in ended.stdout


def test_a_red_run_gives_report_and_exit_code_from_one_run_of_the_stages(
    dagger: Dagger, checkout: Path, tmp_path: Path
) -> None:
    make_red(checkout)
    report = tmp_path / "report"
    script = f"run=$({ROOT} --source . | run --stages unit); $run | report | export {report}; $run | assert-passed"
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


def test_a_report_in_the_checkout_does_not_make_it_dirty(dagger: Dagger, checkout: Path) -> None:
    ended = dagger("-c", f"{ROOT} --source . | run --stages unit | report | export report")
    assert ended.code == 0, ended.stderr[-4000:]
    assert (checkout / "report" / "report.json").is_file()
    status = subprocess.run(["git", "status", "--porcelain"], cwd=checkout, check=True, capture_output=True, text=True)
    assert status.stdout == ""
    digest = json.loads((checkout / "report" / "report.json").read_text())["image"]["digest"]
    assert dagger("call", "--source", ".", "build", "digest").stdout.strip() == digest


def test_a_call_that_fails_with_a_red_stage_has_its_exit_code_and_the_message_alone(dagger: Dagger, checkout: Path) -> None:
    make_red(checkout)
    for call in (["unit"], ["run", "--stages=unit", "stage", "--name=unit", "assert-passed"]):
        ended = dagger("call", "--source", ".", *call)
        assert ended.code == 1
        assert "test_the_earth_is_flat" in ended.stderr
        assert "Traceback" not in ended.stderr + ended.stdout
    assert dagger("call", "--source", ".", "run", "--stages=unit", "verdict").stdout.strip() == "FAILED"


@pytest.mark.parametrize(
    ("call", "code", "message"),
    [
        (["--source=.", "--config=nowhere.yaml", "build", "digest"], 2, "the source has no nowhere.yaml"),
        (["build", "digest"], 2, "pass --source ."),
        (["--source=.", "run", "--stages=strming", "verdict"], 2, "unknown stage: strming"),
        (["--source=.", "--secrets=env://NOT_SET_ANYWHERE", "test"], 2, "NOT_SET_ANYWHERE"),
        (["--source=.", "release", "rollback", "--channel=nowhere"], 2, "no channel nowhere"),
        (["--source=.", "release", "publish", "--run"], 2, "release.ledger.repository is not a server"),
    ],
)
def test_a_mistake_ends_the_call_before_anything_is_built_with_the_message_alone(
    dagger: Dagger, call: list[str], code: int, message: str
) -> None:
    ended = dagger("call", *call)
    assert ended.code == code
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout
    assert "build: started" not in ended.stderr


def test_a_mistake_in_the_configuration_names_the_file_in_the_checkout(dagger: Dagger, checkout: Path) -> None:
    (checkout / "wrong.yaml").write_text("version: 1\nserver: {gpu: none}\n")
    ended = dagger("call", "--source", ".", "--config", "wrong.yaml", "build", "digest")
    assert ended.code == 2
    assert "vllm-ci: wrong.yaml:2: " in ended.stderr


def test_a_worktree_is_refused(dagger: Dagger, checkout: Path, tmp_path: Path) -> None:
    git(checkout, "worktree", "add", "--quiet", str(tmp_path / "worktree"))
    ended = dagger("call", "--source", str(tmp_path / "worktree"), "build", "digest")
    assert ended.code == 2
    assert "git worktree" in ended.stderr


def test_an_engine_without_gpus_says_how_to_start_one_with_before_it_builds(dagger: Dagger) -> None:
    if "GPUs          available" in dagger("call", "doctor").stdout:
        pytest.skip("this engine hands out GPUs")
    ended = dagger("call", "--source", ".", "--gpus", "all", "integration")
    assert ended.code == 3
    assert "_EXPERIMENTAL_DAGGER_GPU_SUPPORT=1" in ended.stderr
    assert "build: started" not in ended.stderr


def test_the_engine_is_examined(dagger: Dagger) -> None:
    ended = dagger("call", "doctor")
    assert ended.code == 0, ended.stderr[-4000:]
    for what in ("engine", "GPUs", "cache volume", "disk", "collection"):
        assert re.search(rf"^(ok|note|warning) +{what} ", ended.stdout, re.MULTILINE), ended.stdout


def test_the_container_can_be_chained_on(dagger: Dagger) -> None:
    code = "import vllm; print('version ' + vllm.__version__)"
    run = ("with-exec", f"--args=/opt/vllm/bin/python,-c,{code}", "stdout")
    ended = dagger("call", "--source", ".", "build", "container", *run)
    assert ended.code == 0, ended.stderr[-4000:]
    assert "version 0." in ended.stdout


@pytest.fixture
def toolchain(dagger_engine: None, checkout: Path) -> Path:  # noqa: ARG001
    """A repository in which the module is installed, as docs/dagger.md says; a local one has to lie inside."""
    copy = checkout / "tools" / "vllm-ci"
    shutil.copytree(ROOT, copy, ignore=lambda folder, names: set(names) - INCLUDED if Path(folder) == ROOT else IGNORED)
    for command in (["init"], ["toolchain", "install", "./tools/vllm-ci"]):
        ended = dagger_cli(checkout, *command)
        assert ended.code == 0, ended.stderr[-4000:]
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "toolchain")
    return checkout


def test_a_toolchain_is_called_without_naming_module_or_source(toolchain: Path) -> None:
    ended = dagger_cli(toolchain, "call", "vllm-ci", "build", "commit")
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=toolchain, check=True, capture_output=True, text=True
    ).stdout.strip()
    assert ended.stdout.strip() == head, ended.stderr[-4000:]


def test_all_checks_share_one_build_one_server_and_one_run_of_each_stage(toolchain: Path) -> None:
    ended = dagger_cli(toolchain, "check")
    assert ended.code == 0, ended.stderr[-6000:]
    log = ended.stderr + ended.stdout
    # Dagger does not always show the log of a service.
    assert log.count("Starting to load model") <= 1, "one server"
    for stage in ("unit", "integration", "streaming", "security"):
        assert log.count(f"{stage}: started") == 2, "asked for by its own check and by test"


def test_the_example_module_builds_and_tries_the_server(dagger_engine: None, checkout: Path) -> None:  # noqa: ARG001
    module = ("-m", str(ROOT / "examples" / "dagger-module"))
    built = dagger_cli(checkout, *module, "call", "--source", ".", "build", "env-variable", "--name", "PATH")
    assert built.code == 0, built.stderr[-4000:]
    tried = dagger_cli(checkout, *module, "call", "--source", ".", "smoke")
    assert "answers" in tried.stdout, tried.stderr[-4000:]
    refused = dagger_cli(
        checkout,
        *module,
        "call",
        "--source",
        ".",
        "release",
        "--key",
        "env://SIGNING_KEY",
        "--dry-run",
        SIGNING_KEY="not a key",
    )
    assert refused.code != 0
    assert "release.ledger.repository is not a server" in refused.stderr


def make_red(checkout: Path) -> None:
    (checkout / "tests" / "test_wrong.py").write_text("def test_the_earth_is_flat():\n    assert 'round' == 'flat'\n")
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "wrong")
