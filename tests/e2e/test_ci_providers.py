"""One commit by three ways: on this machine, by the workflow under act, by the GitLab component: one digest, one verdict."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import ROOT, environment, git, vllm_ci
from unit.module import standin_actions
from unit.module.test_ci_executed import COMMIT, program, tool

pytestmark = [pytest.mark.e2e, pytest.mark.needs_tool, pytest.mark.needs_index, pytest.mark.timeout(900)]

WORKFLOW = f"""
on: push
jobs:
  test:
    uses: team/vllm-ci/.github/workflows/reusable-test.yml@{COMMIT}
    with: {{arguments: --stage unit}}
"""
PIPELINE = f"""
include:
  - local: templates/vllm-ci/template.yml
    inputs: {{program: {ROOT}/ci/vllm-ci, arguments: --stage unit}}
"""


def test_the_same_commit_has_the_same_digest_and_verdict_by_each_provider(project: Path, tmp_path: Path) -> None:
    for name in ("act", "gitlab-ci-local", "rsync"):
        program(name)
    write(project)
    direct = vllm_ci(project, "run", "--stage", "unit", "--json")
    assert direct.code == 0, direct.stderr[-4000:]
    by_act = report_by_act(project, tmp_path)
    by_gitlab = report_by_gitlab(project)
    for found in (by_act, by_gitlab):
        assert found["verdict"] == direct.json["verdict"] == "passed"
        assert found["image"]["digest"] == direct.json["image"]["digest"]
        assert (found["commit"]["sha"], found["commit"]["dirty"]) == (direct.json["commit"]["sha"], False)
        assert found["commit"]["ref"] == "refs/heads/main"


def write(project: Path) -> None:
    git(project, "remote", "add", "origin", "https://git.example.com/team/serving.git")
    for name, text in ((".github/workflows/ci.yml", WORKFLOW), (".gitlab-ci.yml", PIPELINE)):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    (project / "templates" / "vllm-ci").mkdir(parents=True)
    shutil.copy(ROOT / "templates" / "vllm-ci" / "template.yml", project / "templates" / "vllm-ci")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "--message", "pipelines")


def report_by_act(project: Path, tmp_path: Path) -> dict[str, Any]:
    kept = tmp_path / "kept"
    kept.mkdir()
    files = [ROOT / "action.yml", ROOT / ".github" / "workflows" / "reusable-test.yml"]
    ours = tool(tmp_path / "tool")
    command = [program("act"), "push", "--platform", "ubuntu-latest=-self-hosted", "--no-cache-server"]
    command += [*standin_actions.make(tmp_path / "actions", files), "--local-repository", f"team/vllm-ci@{COMMIT}={ours}"]
    for name, value in {"PROJECT": project, "KEPT": kept, "TOOL": ours, "HOME": home()}.items():
        command += ["--env", f"STANDIN_{name}={value}"]
    said = run(command, project, XDG_CACHE_HOME=str(tmp_path / "cache"))
    found: dict[str, Any] = json.loads((kept / "vllm-ci-report" / "report.json").read_text())
    assert "Job succeeded" in said
    return found


def report_by_gitlab(project: Path) -> dict[str, Any]:
    # What was built before is there, as the runner's cache puts it there.
    (project / ".vllm-ci").mkdir(exist_ok=True)
    (project / ".vllm-ci" / "home").symlink_to(home())
    command = [program("gitlab-ci-local"), "--force-shell-executor", "--variable", f"CI_PROJECT_DIR={project}"]
    run(command, project)
    (file,) = (project / ".gitlab-ci-local" / "artifacts").glob("vllm-ci/.vllm-ci/report/*-*/report.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def home() -> str:
    return os.environ.get("VLLM_CI_HOME") or str(Path.home() / ".cache" / "vllm-ci")


def run(command: list[str], folder: Path, **variables: str) -> str:
    env = {name: value for name, value in environment().items() if not name.startswith(("GITHUB_", "GITLAB_", "CI"))}
    done = subprocess.run(
        command, cwd=folder, env={**env, **variables}, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout
