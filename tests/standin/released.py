"""A project whose channel staging has a release, and whose servers on this machine are stand-ins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from registries import project
from standin.patched import sitecustomize
from vllm_ci.cli import root


def with_standins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str) -> Path:
    """The project's folder, which is the current one then.

    Args:
        tmp_path: Holds the project and ``VLLM_CI_HOME``.
        monkeypatch: Puts everything back at the end.
        settings: More of ``vllm-ci.yaml``.
    """
    monkeypatch.setenv("STANDIN_SEEN", str(tmp_path / "seen"))
    monkeypatch.setenv("PYTHONPATH", str(Path(sitecustomize.__file__).parent), prepend=os.pathsep)
    for module, name in (("revision", "_here"), ("local.launcher", "ImageLauncher")):
        target = f"vllm_ci.targets.{module}.{name}"
        monkeypatch.setattr(target, pytest.importorskip(f"vllm_ci.targets.{module}").__dict__[name])  # put back at the end
    sitecustomize.patch()
    folder = made(tmp_path, monkeypatch, settings)
    release(folder, "first")
    return folder


def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str) -> Path:
    """A project without a release, in a folder that is the current one then; as for :func:`with_standins`."""
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))
    for name in ("CI", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "chat"
    project.make_project(folder)
    with (folder / "vllm-ci.yaml").open("a") as stream:
        stream.write(settings)
    monkeypatch.chdir(folder)
    return folder


def release(folder: Path, text: str) -> None:
    """A commit that is built, tested and published to staging."""
    project.commit(folder, text)
    project.build_and_test(folder)
    result = CliRunner().invoke(root, ["publish", "--channel", "staging"], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
