"""The files for CI providers are valid, and each runs one command that everybody can run on a laptop."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
GITLAB = ROOT / "ci" / "gitlab-ci.yml"
JENKINS = ROOT / "ci" / "Jenkinsfile"


def read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return found


def commands(file: Path) -> list[str]:
    """What a file runs."""
    if file == JENKINS:
        return re.findall(r"\bsh '([^']*)'", without_comments(file.read_text(encoding="utf-8")))
    if file == GITLAB:
        return [each for job in read(file).values() for each in job["script"]]
    return [step["run"].strip() for job in read(file)["jobs"].values() for step in job["steps"] if "run" in step]


def without_comments(text: str) -> str:
    return re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("schema", "file"),
    [*(("vendor.github-workflows", file) for file in WORKFLOWS), ("vendor.gitlab-ci", GITLAB)],
    ids=lambda each: getattr(each, "name", each),
)
def test_the_provider_s_own_schema_accepts_the_file(schema: str, file: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(file)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", [*WORKFLOWS, GITLAB, JENKINS], ids=lambda file: file.name)
def test_each_runs_one_command(file: Path) -> None:
    (command,) = commands(file)
    words = shlex.split(command)
    assert "\n" not in command
    if words[0] == "dagger":
        assert words[1] == "-c", "a call gives report or exit code; a shell gives both from one run"
    else:
        (program,) = words
        assert (ROOT / program).stat().st_mode & 0o100, f"{program} is no program of this repository"


def test_the_shell_of_the_workflow_takes_report_and_exit_code_from_one_run() -> None:
    (command,) = commands(ROOT / ".github" / "workflows" / "ci.yml")
    first, *rest = [each.strip() for each in shlex.split(command)[2].split(";")]
    assert first == "run=$(run)"
    assert [each.split(" | ")[0] for each in rest] == ["$run", "$run"]
    assert rest[-1] == "$run | assert-passed", "the last part is what decides"


def test_a_red_run_keeps_its_report() -> None:
    steps = read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["test"]["steps"]
    (kept,) = [step for step in steps if "upload-artifact" in step.get("uses", "")]
    assert kept["if"] == "always()"
    assert read(GITLAB)["vllm-ci"]["artifacts"]["when"] == "always"
    assert re.search(r"post \{\s*always \{", JENKINS.read_text())


def test_the_command_line_is_of_the_version_that_the_sdk_is_of() -> None:
    steps = read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["test"]["steps"]
    (installed,) = [step["with"]["version"] for step in steps if "dagger-for-github" in step.get("uses", "")]
    assert f"dagger-io=={installed}" in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("file", [GITLAB, JENKINS], ids=lambda file: file.name)
def test_nothing_is_written_where_git_would_call_it_a_change(file: Path) -> None:
    """A dirty tree is another image."""
    places = re.findall(r"(?:CI_PROJECT_DIR|WORKSPACE\})/([\w.-]+)/", file.read_text(encoding="utf-8"))
    assert set(places) == {".vllm-ci"}
    ignored = subprocess.run(["git", "check-ignore", "--quiet", ".vllm-ci/x"], cwd=ROOT, check=False)
    assert ignored.returncode == 0


def test_the_jenkinsfile_is_a_declarative_pipeline() -> None:
    """Sections and directives as Jenkins' Pipeline Syntax has them; nothing here can run Groovy."""
    tree = declarative(without_comments(JENKINS.read_text()))
    assert set(tree) == {"pipeline"}
    pipeline = tree["pipeline"]
    assert set(pipeline) <= {"agent any", "options", "environment", "stages", "post"}
    assert {"agent any", "stages"} <= set(pipeline)
    for stage in pipeline["stages"].values():
        assert set(stage) == {"steps"}
    assert set(pipeline["post"]) <= {"always", "success", "failure", "unstable", "changed", "aborted", "cleanup"}


def declarative(text: str) -> dict[str, Any]:
    """Blocks by their heading, statements as keys without a block."""
    top: dict[str, Any] = {}
    open_blocks = [top]
    for line in (each.strip() for each in text.splitlines()):
        if line.endswith("{"):
            block: dict[str, Any] = {}
            open_blocks[-1][line.removesuffix("{").strip()] = block
            open_blocks.append(block)
        elif line == "}":
            open_blocks.pop()
        elif line:
            assert not set(line.replace("${", "").replace("}", "")) & set("{}"), line
            open_blocks[-1][line] = {}
    assert len(open_blocks) == 1, "a block is not closed"
    return top
