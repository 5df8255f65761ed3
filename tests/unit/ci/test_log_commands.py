"""Folds, annotations, outputs and the summary; text of servers and tests cannot give commands to a provider."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import vllm_ci
from doubles.running import running
from doubles.server import Double
from vllm_ci.ci import log_commands, outputs, telling
from vllm_ci.ci.current import Provider
from vllm_ci.ci.log_commands import Annotation
from vllm_ci.cli import root
from vllm_ci.domain import plain_json
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.report import Case, CaseStatus, Problem, Report, StageResult, Verdict
from vllm_ci.report import document, summary
from vllm_ci.system import vcs

COMMANDS = (
    "::set-output name=x::y",
    "  ::add-mask::x",
    "a\n::stop-commands::x",
    "a\r\n::error::x",
    "a\r::error::x",
    "##[error]x",
    "x ##vso[task.setvariable variable=a]b",
    "##VSO[task.complete result=Succeeded;]",
    "##teamcity[buildStatus status='SUCCESS']",
    "%0A::error::x",
    "\x1b[0Ksection_start:1:x\r",
)
# As the runners find commands: actions/runner ActionCommand.TryParseV2 and TryParse; azure-pipelines-agent Command.TryParse.
GITHUB_COMMAND = re.compile(r"(?:^|\r)\s*::\s*[\w-]+.*?::|##\[", re.MULTILINE)
AZURE_COMMAND = re.compile(r"##(vso|teamcity)?\[", re.IGNORECASE)
GITLAB_SECTION = re.compile(r"section_(start|end):\d+:")


@pytest.mark.parametrize("text", COMMANDS)
def test_text_of_others_is_no_command(text: str) -> None:
    found = log_commands.harmless(text)
    for pattern in (GITHUB_COMMAND, AZURE_COMMAND, GITLAB_SECTION):
        assert not pattern.search(found)
    assert found.replace(" ", "") == text.replace(" ", "")


@pytest.mark.slow
@given(st.text(alphabet=":# [vso]\n\r\tsection_start1x", max_size=60))
def test_no_combination_of_their_parts_is_a_command(text: str) -> None:
    found = log_commands.harmless(text)
    assert not GITHUB_COMMAND.search(found)
    assert not AZURE_COMMAND.search(found)
    assert log_commands.harmless(found) == found


@given(st.recursive(st.text(alphabet='"\\:# [vso]\n\r section_start1x\x1b', max_size=40), st.lists, max_leaves=4))
def test_json_on_standard_output_has_the_same_values_and_no_command(value: object) -> None:
    found = log_commands.harmless_json(plain_json.dumps(value))
    assert json.loads(found) == value
    for pattern in (GITHUB_COMMAND, AZURE_COMMAND, GITLAB_SECTION):
        assert not pattern.search(found)


@pytest.mark.parametrize(
    "command",
    [
        ["report", "compare", "old", "new"],
        ["report", "compare", "old", "new", "--format", "markdown"],
        ["report", "compare", "old", "new", "--json"],
        ["report", "comment", "new", "--dry-run", "--base-report", "old"],
        ["show", "new", "--json"],
        ["dashboard", "--reports", "all", "--no-ledger", "--output", "site"],
    ],
    ids=" ".join,
)
def test_what_reports_of_others_say_is_no_command_in_what_is_printed(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = "x ##vso[task.setvariable variable=PATH]/tmp ##[set-output name=verdict]passed \x1b]0;t\x07section_start:1:a"
    case = Case(name=f"a::b[{hostile}]", status=CaseStatus.FAILED, message=hostile)
    for name, cases in (("old", ()), ("new", (case,))):
        stage = StageResult(name="::error::x", verdict=Verdict.FAILED, seconds=1, message=hostile, cases=cases)
        (tmp_path / name).mkdir()
        made = Report(commit=None, image=None, engine="host", stages=(stage,))
        (tmp_path / name / "report.json").write_text(plain_json.dumps(document.to_json(made)))
    broken = tmp_path / "all" / "##[error]broken"
    broken.mkdir(parents=True)
    (broken / "report.json").write_text(plain_json.dumps({**document.to_json(made), "verdict": hostile}))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(root, command)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    assert "x " in done.output
    for pattern in (GITHUB_COMMAND, AZURE_COMMAND, GITLAB_SECTION, re.compile("\x1b")):
        assert not pattern.search(done.output), done.output


@given(st.text(), st.text(), st.text())
def test_an_annotation_is_one_line_with_one_command(title: str, message: str, path: str) -> None:
    found = Annotation(title=title, message=message, path=path, line=3)
    github = log_commands.annotation(Provider.GITHUB, found)
    assert not set(github) & {"\n", "\r"}
    properties = github.removeprefix("::error ").partition("::")[0]
    assert len(re.findall(r"(?:^|,)(?:file|line|title)=", properties)) <= 3
    azure = log_commands.annotation(Provider.AZURE, found)
    assert not set(azure) & {"\n", "\r"}
    assert len(AZURE_COMMAND.findall(azure)) == 1
    assert log_commands.annotation(Provider.JENKINS, found) == ""


def test_annotations_are_escaped_as_the_providers_document_it() -> None:
    found = Annotation(title="a, b: c", message="100%\nsure", path="tests/test_a.py", line=12)
    assert log_commands.annotation(Provider.GITHUB, found) == (
        "::error file=tests/test_a.py,line=12,title=a%2C b%3A c::100%25%0Asure"
    )
    assert log_commands.annotation(Provider.AZURE, replace(found, path="a;b].py")) == (
        "##vso[task.logissue type=error;sourcepath=a%3Bb%5D.py;linenumber=12;]a, b: c: 100%AZP25%0Asure"
    )


@pytest.mark.parametrize(
    ("provider", "begin", "end"),
    [
        (Provider.GITHUB, r"::group::x%0A::error::y", r"::endgroup::"),
        (
            Provider.GITLAB,
            r"\x1b\[0Ksection_start:\d+:vllm_ci\[collapsed=true\]\r\x1b\[0Kx : :error::y",
            r"\x1b\[0Ksection_end:\d+:vllm_ci\r\x1b\[0K",
        ),
        (Provider.BUILDKITE, r"--- x ::error::y", r"\+\+\+ Result"),
        (Provider.AZURE, r"##\[group\]x%0A: :error::y", r"##\[endgroup\]"),
        (Provider.JENKINS, "", ""),
        (Provider.NONE, "", ""),
    ],
)
def test_folds_are_those_of_the_provider(provider: Provider, begin: str, end: str) -> None:
    found = log_commands.fold(provider, "x\n::error::y")
    assert re.fullmatch(begin, found[0])
    assert re.fullmatch(end, found[1])


def report(name: str = "tests/test_own.py::test_flat", details: str = "tests/test_own.py:12: AssertionError") -> Report:
    case = Case(name=name, status=CaseStatus.FAILED, message="round != flat", details=details)
    return Report(
        commit=Commit(sha="a" * 40),
        image=ImageRef(repository="x", digest="sha256:" + "b" * 64),
        engine="host",
        stages=(StageResult(name="unit", verdict=Verdict.FAILED, seconds=1, cases=(case,)),),
    )


def test_an_annotation_is_at_the_line_of_the_user_s_test(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_own.py").touch()
    (found,) = telling.failures(report(), tmp_path)
    assert (found.path, found.line) == ("tests/test_own.py", 12)
    assert "round != flat" in found.message
    (unknown,) = telling.failures(report(details=""), tmp_path)
    assert unknown.line == 1


def test_an_annotation_of_a_project_in_a_folder_of_the_repository_is_at_the_file_there(tmp_path: Path) -> None:
    for folder in ("tests", "serving/tests"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "test_own.py").touch()
    (found,) = telling.failures(report(), tmp_path, tmp_path / "serving")
    assert (found.path, found.line) == ("serving/tests/test_own.py", 12)
    (elsewhere,) = telling.failures(report(), tmp_path / "serving", tmp_path)
    assert (elsewhere.path, elsewhere.line) == ("", 0)


@pytest.mark.parametrize("name", ["../secret.py::x", "/etc/x.py::x", "absent.py::x", "tests::x", ""])
def test_an_annotation_names_only_files_of_the_work_tree(tmp_path: Path, name: str) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "secret.py").touch()
    (found,) = telling.failures(report(name), tmp_path / "work")
    assert (found.path, found.line) == ("", 0)


def test_a_problem_is_one_annotation(tmp_path: Path) -> None:
    problem = Problem(step="server", summary="the server did not start", cause="no memory", change="use less")
    (found,) = telling.failures(replace(report(), problem=problem), tmp_path)
    assert found.message == "the server did not start: no memory\nuse less"


def test_github_gets_outputs_and_a_summary(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    env = {"GITHUB_ACTIONS": "true", **{name: str(file) for name, file in files.items()}}
    lines = telling.tell(report(), Path("/runs/1"), tmp_path, env=env)
    assert lines == ["::error title=unit%3A failed::round != flat%0Aunit: tests/test_own.py::test_flat"]
    found = dict(re.findall(r"(\w+)<<(?:end-\w+)\n(.*)\nend-\w+\n", files["GITHUB_OUTPUT"].read_text()))
    digest = "sha256:" + "b" * 64
    assert found == {"verdict": "failed", "commit": "a" * 40, "digest": digest, "image": f"x@{digest}", "report": "/runs/1"}
    assert files["GITHUB_STEP_SUMMARY"].read_text() == summary.markdown(report())


def test_azure_gets_outputs_and_a_summary(tmp_path: Path) -> None:
    lines = telling.tell(report(), Path("/runs/1"), tmp_path, env={"TF_BUILD": "True"})
    assert "##vso[task.setvariable variable=verdict;isOutput=true;]failed" in lines
    assert lines[-1] == "##vso[task.uploadsummary]/runs/1/summary.md"


@pytest.mark.parametrize("hostile", ["x\ny=z", "a b", "$(id)", "`id`", "x;y", "\x1b"])
def test_an_output_cannot_be_more_than_a_value(tmp_path: Path, hostile: str) -> None:
    made = summary.outputs(replace(report(), image=ImageRef(repository=hostile, digest="sha256:" + "b" * 64)), hostile)
    lines = outputs.write(made, {"TF_BUILD": "True", "VLLM_CI_OUTPUTS": str(tmp_path / "made" / "outputs.env")})
    assert [line.partition("]")[2] for line in lines] == ["failed", "a" * 40, "sha256:" + "b" * 64, "", ""]
    written = (tmp_path / "made" / "outputs.env").read_text().splitlines()
    assert written[0] == "VLLM_CI_OUT_VERDICT=failed"
    assert written[3:] == ["VLLM_CI_OUT_IMAGE=", "VLLM_CI_OUT_REPORT="]


def test_outputs_of_a_later_command_replace_those_of_an_earlier_one_and_keep_the_others(tmp_path: Path) -> None:
    file = tmp_path / "outputs.env"
    file.write_text("PATH=/evil\nnonsense\n")
    outputs.write({"verdict": "passed", "digest": "sha256:1"}, {"VLLM_CI_OUTPUTS": str(file)})
    outputs.write({"digest": "sha256:2", "channel": "staging"}, {"VLLM_CI_OUTPUTS": str(file)})
    assert file.read_text() == "VLLM_CI_OUT_VERDICT=passed\nVLLM_CI_OUT_DIGEST=sha256:2\nVLLM_CI_OUT_CHANNEL=staging\n"


def test_the_summary_shows_foreign_text_as_code_only() -> None:
    hostile = "<img src=x> @all [a](http://x) | `b`\n# head"
    case = Case(name="x", status=CaseStatus.FAILED, message=hostile)
    made = replace(report(), stages=(StageResult(name=hostile, verdict=Verdict.FAILED, seconds=1, cases=(case,)),))
    found = summary.markdown(made)
    assert "\n# head" not in found
    spans = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", found)
    assert not re.search(r"<img|@all|\]\(", spans)
    assert all(line.count("|") in {0, 9} for line in spans.splitlines())


@pytest.mark.slow
def test_a_run_under_github_actions_folds_its_progress_and_tells_the_result(tmp_path: Path) -> None:
    files = {name: str(tmp_path / name) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GITHUB_", "GITLAB_", "CI_", "JENKINS_"))}
    env |= {"CI": "true", "GITHUB_ACTIONS": "true", "PYTHONPATH": str(Path(vllm_ci.__file__).parents[1]), **files}
    with running(Double) as (url, _):
        done = subprocess.run(
            [sys.executable, "-m", "vllm_ci", "test", "--json", "--url", url, "--stage", "integration", "-k", "test_models"],
            cwd=tmp_path,
            env={**env, "VLLM_CI_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["verdict"] == "passed"
    lines = done.stderr.splitlines()
    begin, end = lines.index("::group::vllm-ci: progress"), lines.index("::endgroup::")
    assert any("integration: started" in line for line in lines[begin:end])
    assert any(line.startswith("verdict  passed") for line in lines[end:])
    assert "verdict<<end-" in (tmp_path / "GITHUB_OUTPUT").read_text()
    assert (tmp_path / "GITHUB_STEP_SUMMARY").read_text().startswith("### vllm-ci: passed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "end"), [({"GITHUB_ACTIONS": "true"}, "::endgroup::"), ({"GITLAB_CI": "true"}, "section_end:")]
)
def test_an_error_of_the_configuration_that_a_run_meets_is_not_in_the_folded_part(
    tmp_path: Path, variables: dict[str, str], end: str
) -> None:
    (tmp_path / "ci").mkdir()
    (tmp_path / "ci" / "pipeline.py").write_text(
        "from vllm_ci import Pipeline\nfrom vllm_ci.domain.errors import UsageError\n\n\n"
        "async def pipeline(ci: Pipeline) -> None:\n    raise UsageError('the overlay is not in the commit')\n"
    )
    (tmp_path / "vllm-ci.yaml").write_text("version: 1\n")
    for words in (["init", "--quiet", "."], ["add", "."], ["commit", "--quiet", "--message", "a"]):
        vcs.git("-c", "user.name=a", "-c", "user.email=a@example.com", *words, cwd=tmp_path)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GITHUB_", "GITLAB_", "CI_", "JENKINS_"))}
    env |= {
        "CI": "true",
        "PYTHONPATH": str(Path(vllm_ci.__file__).parents[1]),
        "VLLM_CI_HOME": str(tmp_path / "home"),
        **variables,
    }
    done = subprocess.run(
        [sys.executable, "-m", "vllm_ci", "run"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    folded, ended, after = done.stderr.rpartition(end)
    assert (ended, done.returncode) == (end, 2), done.stderr
    assert "the overlay is not in the commit" in after
    assert "the overlay" not in folded


@pytest.mark.slow
def test_a_file_of_the_provider_that_cannot_be_written_does_not_change_the_result(tmp_path: Path) -> None:
    env = {**os.environ, "CI": "true", "GITHUB_ACTIONS": "true", "GITHUB_OUTPUT": str(tmp_path / "no" / "file")}
    env |= {"PYTHONPATH": str(Path(vllm_ci.__file__).parents[1]), "VLLM_CI_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-m", "vllm_ci", "test", "--url", "http://127.0.0.1:9"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 3
    assert "outputs of this job cannot be written" in done.stderr


@pytest.mark.slow
def test_a_job_with_a_terminal_has_lines_in_its_log_and_no_moving_display() -> None:
    """act and some runners give a job a terminal; what moves the cursor would hide the line that ends the group."""
    program = (
        "from vllm_ci.cli import ci_log, progress; from vllm_ci.domain.events import Finished, Started\n"
        "fold = ci_log.Fold(title='progress'); fold.begin()\n"
        "with progress.watch(progress.console()) as emit:\n"
        "    emit(Started(step='unit', detail='::error::x')); emit(Finished(step='unit', seconds=1, verdict=None))\n"
        "fold.end()\n"
    )
    ours, theirs = pty.openpty()
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(vllm_ci.__file__).parents[1]),
        "GITHUB_ACTIONS": "true",
        "TERM": "xterm",
    }
    done = subprocess.run([sys.executable, "-c", program], env=env, stderr=theirs, check=False, timeout=60)
    os.close(theirs)
    lines = os.read(ours, 65536).decode().splitlines()
    os.close(ours)
    assert done.returncode == 0, lines
    assert lines[0] == "::group::progress"
    assert lines[-1] == "::endgroup::"
    assert not any("\x1b" in line or line.startswith("::error") for line in lines)
