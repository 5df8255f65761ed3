"""``vllm-ci image pull``: the image of a channel, a digest, a reference or a commit, in the store of this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from registries import project
from registries.images import add_image, layer_of
from vllm_ci.cli import root
from vllm_ci.config.load import load
from vllm_ci.config.obtain import obtain
from vllm_ci.domain.errors import ErroredError, UsageError, VllmCiError
from vllm_ci.domain.events import ignore
from vllm_ci.images import tree
from vllm_ci.images.store import Store
from vllm_ci.registry.layout import Layout

pytestmark = pytest.mark.slow


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose commit is published to staging, on a machine that has not built it."""
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))
    for name in ("CI", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "chat"
    project.make_project(folder)
    project.build_and_test(folder)
    monkeypatch.chdir(folder)
    call("publish", "HEAD", "--channel", "staging", "--json")
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "another"))
    return folder


def call(*arguments: str) -> str:
    result = CliRunner().invoke(root, arguments, standalone_mode=False)
    if isinstance(result.exception, VllmCiError):
        raise result.exception
    assert not result.return_value, result.output
    return result.stdout


@pytest.mark.usefixtures("folder")
def test_the_release_of_a_channel_can_be_run_afterwards(tmp_path: Path) -> None:
    found = json.loads(call("image", "pull", "staging", "--json", "--facts", str(tmp_path / "facts")))
    assert found["source"].startswith("channel staging, commit ")
    assert json.loads((tmp_path / "facts/image.json").read_text()) == found
    assert "config" in json.loads((tmp_path / "facts/config.json").read_text())
    with tree.in_use(found["digest"]) as files:
        assert (files / "opt/serving/template.jinja").read_text() == "Hello, world\n"


@pytest.mark.usefixtures("folder")
def test_a_pulled_image_is_listed_once_and_known_to_other_commands() -> None:
    found = json.loads(call("image", "pull", "staging", "--json"))
    call("image", "pull", found["digest"], "--json")
    assert [item["digest"] for item in Store().index()] == [found["digest"]]
    assert found["digest"] in call("image", "show", found["digest"])
    call("cache", "prune", "--dry-run")


@pytest.mark.usefixtures("folder")
def test_a_channel_without_a_release_has_no_image() -> None:
    found = json.loads(call("image", "pull", "production", "--json"))
    assert found == {"source": "the channel production has no release", "repository": "", "digest": None}


def test_a_reference_names_an_image_elsewhere(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    layout = Layout(other)
    layout.prepare()
    manifest = add_image(layout, layer_of({"hello": b"there"}))
    found = obtain(load(folder / "vllm-ci.yaml"), f"oci:{other}@{manifest.digest}", emit=ignore)
    assert found.digest == manifest.digest
    with tree.in_use(manifest.digest) as files:
        assert (files / "hello").read_text() == "there"


@pytest.mark.usefixtures("folder")
def test_a_digest_that_is_nowhere_is_refused() -> None:
    with pytest.raises(ErroredError, match=r"there is no image sha256:0000"):
        call("image", "pull", "sha256:" + "0" * 64)


@pytest.mark.usefixtures("folder")
def test_a_name_that_is_nothing_is_refused() -> None:
    with pytest.raises(UsageError):
        call("image", "pull", "no-such-thing")
