"""`vllm-ci model` as a user calls it, in a project without any release settings; and models of a hub."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from registries.models import checkpoint
from standin import hub as hubs
from vllm_ci.cli import root
from vllm_ci.domain.errors import VllmCiError

PIPELINE = str(Path(__file__).parents[3] / "pipeline")


@dataclass(frozen=True)
class Ended:
    returncode: int
    stdout: str
    stderr: str


Call = Callable[..., Ended]


@pytest.fixture(name="call")
def _call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """The command; as a process of its own when it gets more environment variables."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "vllm-ci.yaml").write_text("version: 1\nname: story\n")
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=project, check=True)
    monkeypatch.chdir(project)
    for name, value in (("VLLM_CI_HOME", str(tmp_path / "home")), ("NO_PROXY", "127.0.0.1"), ("PYTHONPATH", PIPELINE)):
        monkeypatch.setenv(name, value)

    def call(*words: object, **more: str) -> Ended:
        arguments = ["model", *map(str, words)]
        if more:
            command = [sys.executable, "-m", "vllm_ci", *arguments]
            done = subprocess.run(command, env={**os.environ, **more}, capture_output=True, text=True, check=False)
            return Ended(done.returncode, done.stdout, done.stderr)
        result = CliRunner().invoke(root, arguments, standalone_mode=False)
        if isinstance(result.exception, VllmCiError):
            return Ended(result.exception.exit_code, result.stdout, str(result.exception))
        assert result.exception is None, result.exception
        return Ended(result.return_value or result.exit_code, result.stdout, result.stderr)

    return call


def good(done: Ended) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_reason_is_shown_in_one_line_and_not_obeyed_by_the_terminal(call: Call, tmp_path: Path) -> None:
    good(call("add", "chat", checkpoint(tmp_path / "one", 1), "--reason", "new\x1b]0;title\x07\n   7  forged record"))
    shown = good(call("show", "chat")) + good(call("history"))
    assert not {"\x1b", "\x07"} & set(shown)
    assert shown.count(r"new\x1b]0;title\x07    7  forged record") == 2


@pytest.mark.slow
def test_the_story_without_release_settings(call: Call, tmp_path: Path) -> None:
    one, two = checkpoint(tmp_path / "one", 1), checkpoint(tmp_path / "two", 2)
    first = json.loads(good(call("add", "chat", one, "--license", "Apache-2.0", "--json")))
    assert (first["version"], first["changed"], first["facts"]["licenses"]) == ("v1", True, ["Apache-2.0"])
    assert json.loads(good(call("add", "chat", one, "--license", "Apache-2.0", "--json")))["changed"] is False
    good(call("add", "chat", two, "--base", "chat@v1"))
    good(call("alias", "chat", "champion=v1"))
    assert "now points to v2" in good(call("alias", "chat", "champion=v2", "--reason", "better"))
    assert "now points to v1" in good(call("rollback", "chat", "champion"))
    assert [each["version"] for each in json.loads(good(call("list", "--json")))["models"]] == ["v2", "v1"]
    shown = json.loads(good(call("show", "chat@champion", "--json")))
    assert (shown["version"], shown["aliases"]) == ("v1", ["champion"])
    assert {each["kind"] for each in shown["evidence"]} == {"provenance", "model signature"}
    difference = json.loads(good(call("diff", "chat@v1", "chat@v2", "--json")))
    assert [each["path"] for each in difference["changed"]] == ["model-00002-of-00002.safetensors"]
    assert "signed by release" in good(call("pull", "chat@champion", "--to", tmp_path / "out"))
    assert (tmp_path / "out/README.md").read_text() == "# A model\n"
    assert "5 files unaltered" in good(call("verify", "chat"))
    actions = [each["action"] for each in json.loads(good(call("history", "--json")))["records"]]
    assert actions == ["rollback", "alias", "alias", "add", "add"]


def test_bad_input_is_refused_with_a_remedy(call: Call, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(print))
    for words, code, said in (
        (("add", "chat", folder), 1, "opcode STACK_GLOBAL at byte"),
        (("add", "Chat", folder), 2, "not the name of a model"),
        (("add", "chat"), 2, "name one folder"),
        (("add", "chat", folder, "--gguf", "x"), 2, "name one folder"),
        (("add", "chat", tmp_path / "nothing"), 2, "is not a folder"),
        (("add", "chat", "--hub", "org/name"), 2, "write ORG/NAME@REVISION"),
        (("show", "chat"), 2, "there is no model chat"),
        (("alias", "chat", "champion"), 2, "champion=v3"),
        (("alias", "chat", "champion=v1"), 2, "there is no model chat"),
        (("rollback", "chat", "champion", "--to", "1"), 2, "--to v1"),
    ):
        done = call(*words)
        assert (done.returncode, said in done.stderr) == (code, True), f"{words}: {done.returncode} {done.stderr}"
        assert "do:  " in done.stderr


@pytest.mark.slow
def test_a_model_of_a_hub_is_added_by_commit_without_its_pickles(call: Call, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(print))
    (folder / ".gitattributes").write_text("x")
    with hubs.serving(folder) as hub:
        added = json.loads(good(call("add", "chat", "--hub", "org/name@main", "--json", HF_ENDPOINT=hub.url)))
        assert "pytorch_model.bin" not in hub.asked
        assert added["facts"]["revision"] == hubs.COMMIT
        assert added["facts"]["licenses"] == ["apache-2.0"]
        assert added["facts"]["sourceURL"] == f"{hub.url}/org/name"
        assert len(added["files"]) == 5
        again = json.loads(good(call("add", "chat", "--hub", f"org/name@{hubs.COMMIT}", "--json", HF_ENDPOINT=hub.url)))
        assert again["changed"] is False
    assert not list((tmp_path / "home/hub").glob("org*")), "the download is removed once it is in the repository"


@pytest.mark.slow
def test_a_download_that_breaks_goes_on_and_altered_files_are_refused_by_name(call: Call, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    with hubs.serving(folder) as hub:
        hub.cut_once.add("model-00001-of-00002.safetensors")
        hub.altered.add("config.json")
        done = call("add", "chat", "--hub", "org/name@main", HF_ENDPOINT=hub.url)
        assert done.returncode == 1, done.stderr
        assert "config.json of org/name is not the file that the hub lists" in done.stderr
        hub.altered = {"model-00002-of-00002.safetensors"}
        done = call("add", "chat", "--hub", "org/name@main", HF_ENDPOINT=hub.url)
        assert "model-00002-of-00002.safetensors of org/name is not the file" in done.stderr
        hub.altered.clear()
        good(call("add", "chat", "--hub", "org/name@main", HF_ENDPOINT=hub.url))


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/tmp/outside.json", "a//b.json", "a\\b.json"])
def test_a_hub_that_lists_a_path_outside_is_refused(call: Call, tmp_path: Path, path: str) -> None:
    with hubs.serving(checkpoint(tmp_path / "c")) as hub:
        hub.outside = path
        done = call("add", "chat", "--hub", "org/name@main", HF_ENDPOINT=hub.url)
        assert (done.returncode, "lists a file outside the model's folder" in done.stderr) == (1, True), done.stderr
        assert hub.asked == []


@pytest.mark.slow
def test_what_a_hub_does_not_give_is_said(call: Call, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    with hubs.serving(folder) as hub:
        for name, said in (("org/name@v9", "the hub has no org/name@v9"), ("org/other@main", "the hub has no org/other@main")):
            done = call("add", "chat", "--hub", name, HF_ENDPOINT=hub.url)
            assert (done.returncode, said in done.stderr) == (2, True), done.stderr
        hub.gated = True
        assert "the hub refuses org/name@main" in call("add", "chat", "--hub", "org/name@main", HF_ENDPOINT=hub.url).stderr
        hub.gated = False
        for each in folder.glob("*.safetensors"):
            each.unlink()
        done = call("add", "chat", "--hub", "org/name@main", HF_ENDPOINT=hub.url)
        assert "has no safetensors or GGUF file" in done.stderr
    done = call("add", "chat", "--hub", "org/name@main", HF_ENDPOINT=hub.url)
    assert (done.returncode, "check HF_ENDPOINT" in done.stderr) == (3, True), done.stderr
