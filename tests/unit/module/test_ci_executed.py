"""The action by act, the GitLab component by gitlab-ci-local: a user's project is tested against a small server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles.running import running
from doubles.server import Double
from unit.module import standin_actions
from unit.module.standin_actions import git

ROOT = Path(__file__).parents[3]
COMMIT = "0123456789" * 4
pytestmark = [pytest.mark.needs_tool, pytest.mark.needs_index, pytest.mark.slow]

WORKFLOW = f"""
on: [push, pull_request]
jobs:
  test:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1
        with: {{path: project}}
      - id: red
        continue-on-error: true
        uses: team/vllm-ci@{COMMIT}
        with:
          directory: project
          command: test
          arguments: --url URL --stage integration -k no_such_case
          artifact: nothing-ran
          cache: "false"
      - id: green
        uses: team/vllm-ci@{COMMIT}
        with: {{directory: project, command: test, arguments: --url URL --stage integration -k test_says_that}}
      - run: echo "$RED, $GREEN" > "$STANDIN_KEPT/outputs"
        env:
          RED: ${{{{ steps.red.outputs.verdict }}}} ${{{{ steps.red.outcome }}}}
          GREEN: ${{{{ steps.green.outputs.verdict }}}} ${{{{ steps.green.outcome }}}}
"""
PIPELINE = """
include:
  - local: templates/vllm-ci/template.yml
    inputs: {program: PROGRAM, command: test, arguments: "ARGUMENTS"}
after:
  stage: deploy
  needs: [{job: vllm-ci, artifacts: true}]
  script:
    - echo "$VLLM_CI_OUT_VERDICT" > seen
"""


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name} (see CONTRIBUTING.md)")
    return found


@pytest.fixture
def url() -> Iterator[str]:
    with running(Double) as (found, _):
        yield found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "vllm-ci.yaml").write_text("version: 1\n")
    git(folder, "init", "--quiet", "--initial-branch=main", ".")
    git(folder, "remote", "add", "origin", "https://git.example.com/team/serving.git")
    return folder


def environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_CI_", "GITHUB_", "GITLAB_", "CI"))}
    return {**kept, "VLLM_CI_HOME": str(tmp_path / "home")}


def tool(folder: Path) -> Path:
    """The files of this repository, as an action is downloaded: without its environments, which act would copy."""
    listed = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet", ".")
    git(folder, "add", "--all", ".")
    git(folder, "commit", "--quiet", "--message", "the tool")
    return folder


def test_the_action_gives_verdict_report_and_exit_code(project: Path, tmp_path: Path, url: str) -> None:
    act = program("act")
    workflow = project / ".github" / "workflows" / "ci.yml"
    workflow.parent.mkdir(parents=True)
    workflow.write_text(WORKFLOW.replace("URL", url))
    git(project, "add", ".")
    git(project, "commit", "--quiet", "--message", "start")
    kept = tmp_path / "kept"
    kept.mkdir()
    command = [act, "push", "--platform", "ubuntu-latest=-self-hosted", "--no-cache-server"]
    command += standin_actions.make(tmp_path / "actions", [ROOT / "action.yml", workflow])
    command += ["--local-repository", f"team/vllm-ci@{COMMIT}={tool(tmp_path / 'tool')}"]
    command += ["--env", f"STANDIN_PROJECT={project}", "--env", f"STANDIN_KEPT={kept}"]
    env = {**environment(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False, timeout=280)
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-4000:]
    assert (kept / "outputs").read_text() == "errored failure, passed success\n", log[-4000:]
    for name, verdict in (("nothing-ran", "errored"), ("vllm-ci-report", "passed")):
        assert json.loads((kept / name / "report.json").read_text())["verdict"] == verdict
    assert (kept / "keys").read_text().startswith("vllm-ci-Linux-")


def test_the_gitlab_component_keeps_report_and_outputs(project: Path, tmp_path: Path, url: str) -> None:
    local = program("gitlab-ci-local")
    program("rsync")
    (project / "templates" / "vllm-ci").mkdir(parents=True)
    shutil.copy(ROOT / "templates" / "vllm-ci" / "template.yml", project / "templates" / "vllm-ci")
    arguments = f"--url {url} --stage integration -k test_says_that"
    pipeline = PIPELINE.replace("PROGRAM", str(ROOT / "ci" / "vllm-ci")).replace("ARGUMENTS", arguments)
    (project / ".gitlab-ci.yml").write_text(pipeline)
    git(project, "add", ".")
    git(project, "commit", "--quiet", "--message", "start")
    # The job of a shell executor runs in the project; what gitlab-ci-local says of it is the place in a container.
    variables = ["--variable", f"CI_PROJECT_DIR={project}"]
    done = subprocess.run(
        [local, "--force-shell-executor", "--home", str(tmp_path / "home"), *variables],
        cwd=project,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-4000:]
    assert (project / "seen").read_text() == "passed\n", log[-4000:]
    kept = project / ".gitlab-ci-local" / "artifacts" / "vllm-ci" / ".vllm-ci" / "report"
    (report,) = kept.glob("*-url/report.json")
    assert json.loads(report.read_text())["verdict"] == "passed"
    assert list(kept.glob("*-url/junit.xml"))
