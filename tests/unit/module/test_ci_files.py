"""The files for CI providers are valid, pinned and least privileged, and each step runs one command of this repository."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from vllm_ci import __version__
from vllm_ci.domain.report import Report
from vllm_ci.report import folder as report_folder
from vllm_ci.system import vcs

ROOT = Path(__file__).parents[3]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTION = ROOT / "action.yml"
GITLAB = ROOT / "ci" / "gitlab-ci.yml"
COMPONENTS = sorted((ROOT / "templates").glob("*/template.yml"))
JENKINS = ROOT / "ci" / "Jenkinsfile"
STEP = ROOT / "vars" / "vllmCi.groovy"
RELEASES = [file for file in WORKFLOWS if file.stem in {"reusable-publish", "reusable-promote", "reusable-rollback"}]
CALLABLE = [file for file in WORKFLOWS if file.stem.startswith("reusable-")]


def read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return found


def triggers(content: dict[Any, Any]) -> dict[str, Any]:
    """The events of a workflow: YAML 1.1 reads their key, `on`, as true."""
    found: dict[str, Any] = content[True]
    return found


def component(file: Path, **inputs: str) -> dict[str, Any]:
    """The jobs of a GitLab component with its defaults, as the include puts them into a pipeline."""
    header, jobs = file.read_text(encoding="utf-8").split("\n---\n")
    known = yaml.safe_load(header)["spec"]["inputs"]
    values = {
        name: inputs.get(name, each.get("default", next(iter(each.get("options", ["x"]))))) for name, each in known.items()
    }
    used = re.sub(r"\$\[\[ inputs\.([\w-]+) \]\]", lambda found: str(values[found[1]]), jobs)
    assert "$[[" not in used, "an input that is not declared"
    made: dict[str, Any] = yaml.safe_load(used)
    return made


def steps(file: Path) -> list[dict[str, Any]]:
    content = read(file)
    if file == ACTION:
        return list(content["runs"]["steps"])
    return [step for job in content["jobs"].values() for step in job.get("steps", [])]


def commands(file: Path) -> list[str]:
    """What a file runs."""
    if file == JENKINS:
        return re.findall(r"^\s*vllmCi program: '([^']*)'", file.read_text(encoding="utf-8"), re.MULTILINE)
    if file == STEP:
        return re.findall(r"^\s*sh (\w+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    if file in COMPONENTS:
        return [each for job in component(file).values() for each in job["script"]]
    if file == GITLAB:
        return [each["inputs"]["program"] for each in read(file)["include"]]
    return [step["run"].strip() for step in steps(file) if "run" in step]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schema", "file"),
    [
        *(("vendor.github-workflows", file) for file in WORKFLOWS),
        ("vendor.github-actions", ACTION),
        ("vendor.gitlab-ci", GITLAB),
        *(("vendor.gitlab-ci", file) for file in COMPONENTS),
    ],
    ids=lambda each: str(each.relative_to(ROOT)) if isinstance(each, Path) else each,
)
def test_the_provider_s_own_schema_accepts_the_file(schema: str, file: Path, tmp_path: Path) -> None:
    checked = file
    if file in COMPONENTS:
        checked = tmp_path / "gitlab-ci.yml"
        checked.write_text(yaml.safe_dump(component(file)))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(checked)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.needs_tool
@pytest.mark.parametrize("tool", [("actionlint",), ("zizmor", "--offline", "--no-progress", ".")], ids=lambda words: words[0])
def test_linters_find_nothing_in_the_workflows_and_the_action(tool: tuple[str, ...]) -> None:
    if shutil.which(tool[0]) is None:
        pytest.skip(f"needs {tool[0]} (see CONTRIBUTING.md)")
    done = subprocess.run(tool, cwd=ROOT, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "file", [*WORKFLOWS, ACTION, GITLAB, *COMPONENTS, JENKINS, STEP], ids=lambda file: str(file.relative_to(ROOT))
)
def test_each_step_runs_one_command(file: Path) -> None:
    found = commands(file)
    if file in CALLABLE or file.stem == "ci":
        assert found == [], "a workflow for others only calls the action"
        return
    assert found
    for command in found:
        words = shlex.split(command)
        assert not set(command) & set("\n;|&") or words[0] == "dagger"
        if words[0] == "dagger":
            assert words[1] == "-c", "a call gives report or exit code; a shell gives both from one run"
        elif file in COMPONENTS:
            assert words[:2] == ["uvx", f"vllm-ci@{__version__}"]
        elif file == STEP:
            assert words == ["line"]
        else:
            program = ROOT / words[0].removeprefix("$GITHUB_ACTION_PATH/")
            assert program.stat().st_mode & 0o100, f"{program} is no program of this repository"


@pytest.mark.parametrize("file", [*WORKFLOWS, ACTION], ids=lambda file: file.name)
def test_actions_are_pinned_by_commit_and_the_version_is_said_beside_it(file: Path) -> None:
    for line in file.read_text(encoding="utf-8").splitlines():
        if (found := re.search(r"\buses: (\S+)(.*)", line)) and not found[1].startswith("./") and not line.startswith("#"):
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", found[1]), line
            assert re.match(r" # v\d+\.\d+\.\d+\b", found[2]), line


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_workflows_may_do_no_more_than_they_need(file: Path) -> None:
    content = read(file)
    assert content["permissions"] in ({}, {"contents": "read"})
    for job in content["jobs"].values():
        allowed = (
            {"contents": "write", "packages": "write"} if file in RELEASES and "environment" in job else {"contents": "read"}
        )
        assert job.get("permissions", {}).items() <= allowed.items()
        assert "secrets" not in job, "no secrets are handed on"
    for step in steps(file):
        if "actions/checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False
    assert "pull_request_target" not in triggers(content)


@pytest.mark.parametrize("file", RELEASES, ids=lambda file: file.name)
def test_a_pull_request_cannot_release_and_what_is_tested_runs_without_secrets(file: Path) -> None:
    content = read(file)
    assert set(triggers(content)) == {"workflow_call", "workflow_dispatch"}
    first, *others = content["jobs"].values()
    events = re.fullmatch(r"contains\(fromJSON\('(.*)'\), github\.event_name\)", first["if"])
    assert events
    assert set(yaml.safe_load(events[1])) == {"push", "workflow_dispatch", "schedule", "release"}
    assert all(job.get("needs") == "test" for job in others), "a job that needs a skipped one is skipped"
    release = content["jobs"]["release"]
    assert release["environment"] == "${{ inputs.environment }}"
    assert [step["with"].get("command") for step in release["steps"] if step.get("uses") == "./vllm-ci"][-1] == file.stem[9:]
    for name, job in content["jobs"].items():
        assert ("secrets." in yaml.safe_dump(job)) == (name == "release")
    for step in release["steps"]:
        if step.get("uses") == "./vllm-ci":
            assert step["with"]["command"] in {"build", "publish", "promote", "rollback"}, "no code of the project runs here"
            assert step["with"]["cache"] == "false", "what was tested had access to the cache"


def test_the_component_for_releases_has_no_job_for_merge_requests_and_protected_refs_only() -> None:
    (job,) = component(ROOT / "templates" / "release" / "template.yml", channel="staging").values()
    first, second = job["rules"]
    assert "merge_request_event" in first["if"]
    assert first["when"] == "never"
    assert (second["if"], second["when"]) == ('$CI_COMMIT_REF_PROTECTED == "true"', "manual")
    assert job["environment"]["name"] == "staging"


def test_every_file_that_names_a_version_of_vllm_ci_names_this_one() -> None:
    for file in (*COMPONENTS, STEP, ROOT / "docs" / "ci.md", ROOT / "CITATION.cff"):
        text = file.read_text(encoding="utf-8")
        found = re.findall(r"(?:vllm-ci@|vllm-ci(?:\[\w+\])?==|^version: )(\d[\w.]*)", text, re.MULTILINE)
        assert set(found) == {__version__}, file


def test_the_token_for_comments_is_in_the_environment_of_one_step_only() -> None:
    with_token = [step for step in steps(ACTION) if "inputs.comment-token }}" in yaml.safe_dump(step)]
    assert len(with_token) == 1
    assert "report comment" in with_token[0]["run"]


def test_inputs_reach_the_shell_as_variables_only() -> None:
    """An expression in a script is code of whoever chose its value."""
    for file in (*WORKFLOWS, ACTION):
        assert not any("${{" in step["run"] for step in steps(file) if "run" in step)


def test_the_shell_of_the_workflow_takes_report_and_exit_code_from_one_run() -> None:
    (command,) = commands(ROOT / ".github" / "workflows" / "dagger.yml")
    first, *rest = [each.strip() for each in shlex.split(command)[2].split(";")]
    assert first == "run=$(run)"
    assert [each.split(" | ")[0] for each in rest] == ["$run", "$run"]
    assert rest[-1] == "$run | assert-passed", "the last part is what decides"


def test_calls_in_one_run_have_artifacts_of_their_own_and_a_release_takes_that_of_its_test() -> None:
    """GitHub refuses a second artifact of one name in a run."""
    called = ROOT / ".github" / "workflows" / "reusable-test.yml"
    assert (
        triggers(read(called))["workflow_call"]["inputs"]["artifact"]["default"]
        == read(ACTION)["inputs"]["artifact"]["default"]
    )
    assert steps(called)[-1]["with"]["artifact"] == "${{ inputs.artifact }}"
    publishing = ROOT / ".github" / "workflows" / "reusable-publish.yml"
    given = read(publishing)["jobs"]["test"]["with"]["artifact"]
    assert "${{ inputs.channel }}" in given
    assert [step["with"]["name"] for step in steps(publishing) if "download-artifact" in step.get("uses", "")] == [given]


def test_a_red_run_keeps_its_report() -> None:
    for file in (ROOT / ".github" / "workflows" / "dagger.yml", ACTION):
        (kept,) = [step for step in steps(file) if "upload-artifact" in step.get("uses", "")]
        assert kept["if"].startswith("always()")
    assert component(ROOT / "templates" / "vllm-ci" / "template.yml")["vllm-ci"]["artifacts"]["when"] == "always"
    assert re.search(r"finally \{\s*junit", STEP.read_text())


def test_a_build_of_jenkins_publishes_and_returns_its_own_results_in_a_workspace_that_is_used_again(tmp_path: Path) -> None:
    def of_build(number: int) -> tuple[Path, Path, list[Path]]:
        """Report directory and outputs of a build, and the files that it publishes."""
        text = STEP.read_text(encoding="utf-8")
        for name, value in re.findall(r'String (\w+) = "([^"]*)"', text):
            text = text.replace(f"${{{name}}}", value)
        text = text.replace("${env.WORKSPACE}/", "").replace("${env.BUILD_NUMBER}", str(number))
        report, outputs = (re.findall(f'"VLLM_CI_{name}=(.*)"', text)[0] for name in ("REPORT_DIR", "OUTPUTS"))
        assert set(re.findall(r"""(?:fileExists|readFile)\(['"](.*?)['"]""", text)) == {outputs}, "what it returns"
        patterns = re.findall(r"""(?:testResults|artifacts): ['"](.*?)['"]""", text)
        return tmp_path / report, tmp_path / outputs, [path for pattern in patterns for path in tmp_path.glob(pattern)]

    for number in (1, 2):
        folder, outputs, _ = of_build(number)
        (folder / f"run-{number}").mkdir(parents=True)
        (folder / f"run-{number}" / "junit.xml").touch()
        (folder / "latest").symlink_to(f"run-{number}")
        outputs.write_text(f"VLLM_CI_OUT_COMMIT={number}\n")
    assert of_build(1)[1].read_text() == "VLLM_CI_OUT_COMMIT=1\n"
    published = {path.parent.name for path in of_build(2)[2] if path.name == "junit.xml"}
    assert published == {"run-2"}, "a failure of an earlier build would stay red for ever"


def test_gitlab_gets_the_results_of_a_run_once(tmp_path: Path) -> None:
    reports = component(ROOT / "templates" / "vllm-ci" / "template.yml")["vllm-ci"]["artifacts"]["reports"]
    made = Report(commit=None, image=None, engine="host", started_at="2026-11-21T10:15:00+00:00")
    written = report_folder.write(tmp_path / ".vllm-ci" / "report", made, {})
    assert list(tmp_path.glob(reports["junit"])) == [written / "junit.xml"]


def test_the_command_line_is_of_the_version_that_the_sdk_is_of() -> None:
    found = [
        step["with"]["version"]
        for step in steps(ROOT / ".github" / "workflows" / "dagger.yml")
        if "dagger-" in step.get("uses", "")
    ]
    assert f"dagger-io=={found[0]}" in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("file", [*COMPONENTS, STEP], ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_is_written_where_git_would_call_it_a_change(file: Path) -> None:
    """A dirty tree is another image."""
    places = re.findall(r"(?:CI_PROJECT_DIR|WORKSPACE\})/([\w.-]+)/", file.read_text(encoding="utf-8"))
    assert set(places) == {".vllm-ci"}
    ignored = subprocess.run(["git", "check-ignore", "--quiet", ".vllm-ci/x"], cwd=ROOT, check=False)
    assert ignored.returncode == 0


def test_a_cache_and_outputs_in_the_checkout_of_a_user_do_not_make_it_dirty(tmp_path: Path) -> None:
    """The users' repositories have no line for them in their .gitignore, and a dirty tree cannot be released."""
    vcs.git("init", "--quiet", ".", cwd=tmp_path)
    (tmp_path / "file").touch()
    vcs.git("add", ".", cwd=tmp_path)
    vcs.git("-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "--quiet", "--message", "a", cwd=tmp_path)
    for folder in (tmp_path, tmp_path / "serving"):
        (folder / ".vllm-ci" / "home").mkdir(parents=True)
        (folder / ".vllm-ci" / "home" / "layer").touch()
    (tmp_path / ".vllm-ci" / "outputs.env").touch()
    (tmp_path / "serving" / "new").touch()
    assert vcs.discover(tmp_path).dirty, "another new file still does"
    (tmp_path / "serving" / "new").rename(tmp_path / "serving" / ".vllm-ci" / "new")
    vcs.git("add", "--force", "serving/.vllm-ci/new", cwd=tmp_path)
    assert vcs.discover(tmp_path).dirty, "and so does one that git has"
    vcs.git("rm", "--quiet", "--cached", "serving/.vllm-ci/new", cwd=tmp_path)
    assert vcs.discover(tmp_path).dirty, "a folder that is new as a whole is shown by its name only"
    (tmp_path / "serving" / "kept").touch()
    vcs.git("add", "serving/kept", cwd=tmp_path)
    vcs.git("-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "--quiet", "--message", "b", cwd=tmp_path)
    assert not vcs.discover(tmp_path).dirty


def test_the_jenkinsfile_is_a_declarative_pipeline() -> None:
    """Sections and directives as Jenkins' Pipeline Syntax has them; Groovy is in the step of the library only."""
    library, _, pipeline_text = without_comments(JENKINS.read_text()).partition("pipeline {")
    assert library.strip() == "@Library('vllm-ci') _"
    pipeline = declarative("pipeline {" + pipeline_text)["pipeline"]
    assert set(pipeline) <= {"agent any", "options", "environment", "stages", "post"}
    assert {"agent any", "stages"} <= set(pipeline)
    for stage in pipeline["stages"].values():
        assert set(stage) == {"steps"}


def without_comments(text: str) -> str:
    return re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE)


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
