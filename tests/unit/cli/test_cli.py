"""Options, precedence, exit codes and JSON, through the real command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from vllm_ci import cli
from vllm_ci.cli import COMMANDS, root

pytestmark = pytest.mark.slow


def call(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(root, arguments, env=env, standalone_mode=True, catch_exceptions=False)


def whole(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The command line as a process, as users call it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_CI_")}
    return subprocess.run(
        [sys.executable, "-m", "vllm_ci", *arguments],
        cwd=folder,
        env={**clean, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "vllm-ci.yaml").write_text("server:\n  port: 8100\n")
    return tmp_path


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    result = call(name, "--help")
    assert result.exit_code == 0
    if not hasattr(root.get_command(None, name), "commands"):  # type: ignore[arg-type]
        assert "Example" in result.output
        assert f"vllm-ci {name}" in result.output


def test_flag_beats_environment_beats_file_beats_default(project: Path) -> None:
    path = str(project / "vllm-ci.yaml")

    def port(*arguments: str, **env: str) -> tuple[int, str]:
        result = call("config", "--json", "--config", path, *arguments, env=env)
        entry = json.loads(result.stdout)["server.port"]
        return entry["value"], entry["origin"]

    assert port() == (8100, f"{path}:2")
    assert port(VLLM_CI_PORT="8200") == (8200, "environment VLLM_CI_PORT")
    assert port("--port", "8300", VLLM_CI_PORT="8200") == (8300, "flag --port")
    (project / "vllm-ci.yaml").write_text("")
    assert port() == (0, "default")


def test_the_configuration_can_be_named_by_its_variable(project: Path) -> None:
    result = call("config", "--json", env={"VLLM_CI_CONFIG": str(project / "vllm-ci.yaml")})
    assert json.loads(result.stdout)["server.port"]["value"] == 8100


def test_a_folder_given_as_model_is_a_path_and_a_name_is_a_name(project: Path) -> None:
    (project / "checkpoint").mkdir()

    def model(value: str) -> dict[str, object]:
        result = call("config", "--json", "--config", str(project / "vllm-ci.yaml"), "--model", value)
        return {key: entry["value"] for key, entry in json.loads(result.stdout).items() if key.startswith("model.")}

    assert model(str(project / "checkpoint"))["model.path"] == str(project / "checkpoint")
    assert model("org/name")["model.name"] == "org/name"


def test_a_broken_configuration_exits_2_with_its_line(project: Path) -> None:
    (project / "vllm-ci.yaml").write_text("serve:\n  port: 1\n")
    done = whole(project, "run")
    assert done.returncode == 2
    assert "vllm-ci.yaml:1" in done.stderr
    assert "did you mean server?" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_option_and_an_unknown_command_exit_2(project: Path) -> None:
    assert whole(project, "run", "--no-such-option").returncode == 2
    assert whole(project, "no-such-command").returncode == 2


def test_a_folder_without_a_commit_exits_2(project: Path) -> None:
    done = whole(project, "run", GIT_CEILING_DIRECTORIES=str(project.parent))
    assert done.returncode == 2
    assert "git init" in done.stderr


def test_an_unknown_stage_exits_2_and_names_the_known_ones(project: Path) -> None:
    done = whole(project, "test", "--url", "http://127.0.0.1:9", "--stage", "nonsense")
    assert done.returncode == 2
    assert "unit, integration, streaming, security" in done.stderr


def test_a_stage_that_looks_into_an_image_cannot_be_asked_of_a_url(project: Path) -> None:
    done = whole(project, "test", "--url", "http://127.0.0.1:9", "--stage", "unit")
    assert done.returncode == 2
    assert "needs an image" in done.stderr


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://"])
def test_what_is_no_url_of_a_server_exits_2(project: Path, url: str) -> None:
    assert whole(project, "test", "--url", url).returncode == 2


def test_a_key_variable_that_is_not_set_exits_2(project: Path) -> None:
    done = whole(project, "test", "--url", "http://127.0.0.1:9", "--api-key-env", "ABSENT_KEY")
    assert done.returncode == 2
    assert "ABSENT_KEY" in done.stderr


def test_a_server_that_does_not_answer_is_errored_not_failed(project: Path) -> None:
    """We could not tell: exit code 3, with a report that says so."""
    done = whole(
        project, "test", "--url", "http://127.0.0.1:9", "--stage", "streaming", "--json", "--report-dir", str(project / "r")
    )
    assert done.returncode == 3, done.stderr
    result = json.loads(done.stdout)
    assert result["verdict"] == "errored"
    assert result["image"] is None
    assert len(done.stderr.splitlines()) == 2
    assert Path(result["report_dir"], "report.html").is_file()
    report = json.loads(Path(result["report_dir"], "report.json").read_text(encoding="utf-8"))
    assert report["hardware"] == {}  # whatever machine that server runs on, it need not be this one


def test_an_api_key_in_a_variable_that_programs_need_is_refused(project: Path) -> None:
    done = whole(project, "test", "--url", "http://127.0.0.1:9", "--api-key-env", "PATH")
    assert done.returncode == 2
    assert "PATH" in done.stderr


def test_help_and_version_load_no_pipeline() -> None:
    code = "import sys; sys.argv=['vllm-ci','--help']; import vllm_ci.cli as c\ntry: c.main()\nexcept SystemExit: pass\n"
    heavy = ("pydantic", "httpx", "anyio", "rich", "yaml")
    code += f"print(sorted(m for m in sys.modules if m.split('.')[0] in {heavy}), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_a_path_that_cannot_be_used_is_no_fault_of_ours() -> None:
    code = (
        "import sys; sys.argv=['vllm-ci','x']; import vllm_ci.cli as c\n"
        "def refuse(**_): raise PermissionError(13, 'Permission denied', '/some/place')\n"
        "c.root.main = refuse\nc.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "cannot use /some/place: Permission denied" in done.stderr
    assert "fault in vllm-ci" not in done.stderr


def test_a_message_is_not_obeyed_by_the_terminal() -> None:
    code = (
        "import sys; sys.argv=['vllm-ci','x']; import vllm_ci.cli as c\n"
        "def refuse(**_): raise c.VllmCiError('it said \\x1b]0;title\\x07')\n"
        "c.root.main = refuse\nc.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert r"it said \x1b]0;title\x07" in done.stderr


def test_commands_are_where_the_table_says() -> None:
    for name in cli.COMMANDS:
        assert root.get_command(None, name) is not None  # type: ignore[arg-type]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_documented_lines_complete_commands_in_a_shell(shell: str) -> None:
    page = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert f"_VLLM_CI_COMPLETE={shell}_source vllm-ci" in page
    command = [sys.executable, "-m", "vllm_ci"]
    source = {**os.environ, "_VLLM_CI_COMPLETE": f"{shell}_source"}
    made = subprocess.run(command, env=source, check=True, capture_output=True, text=True, timeout=60)
    assert f"_VLLM_CI_COMPLETE={shell}_complete" in made.stdout
    at = "co" if shell == "fish" else "2"
    asked = {"_VLLM_CI_COMPLETE": f"{shell}_complete", "COMP_WORDS": "vllm-ci report co", "COMP_CWORD": at}
    done = subprocess.run(command, env={**os.environ, **asked}, check=True, capture_output=True, text=True, timeout=60)
    assert "comment" in done.stdout
    assert "compare" in done.stdout
