"""``vllm-ci gateway keys``: what it prints, what it keeps, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from vllm_ci.cli import root
from vllm_ci.domain.errors import ConfigError, UsageError
from vllm_ci.system.home import home

CONFIG = """
version: 1
name: sample
image: {spec: cpu, repository: sample}
model: {served_name: tiny}
release:
  channels:
    production: {}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vllm-ci.yaml").write_text(CONFIG, encoding="utf-8")
    return tmp_path


def called(*words: str) -> Result:
    return CliRunner().invoke(root, ["gateway", "keys", *words], catch_exceptions=False, standalone_mode=False)


def test_a_key_is_printed_once_and_only_its_hash_is_kept(project: Path) -> None:
    key = called("add", "production", "team-a").stdout.strip()
    assert key.startswith("vci_team-a_")
    assert len(key) == len("vci_team-a_") + 43
    kept = [path for path in (project / "home").rglob("*") if path.is_file() and path.stat().st_size]
    assert [path.name for path in kept] == ["keys.json"]
    assert kept[0].is_relative_to(home() / "deploy")
    assert key.rpartition("_")[2] not in kept[0].read_text(encoding="utf-8")
    listed = json.loads(called("list", "production", "--json").stdout)
    assert [each["name"] for each in listed["keys"]] == ["team-a"]
    assert "hash" not in listed["keys"][0]


def test_a_revoked_key_is_gone_and_its_name_is_free_again(project: Path) -> None:  # noqa: ARG001
    first = json.loads(called("add", "production", "team-a", "--json").stdout)["key"]
    assert json.loads(called("revoke", "production", "team-a", "--json").stdout) == {"name": "team-a", "revoked": True}
    assert called("list", "production").stdout == ""
    assert json.loads(called("add", "production", "team-a", "--json").stdout)["key"] != first


def test_channels_and_names_that_do_not_exist_are_refused(project: Path) -> None:  # noqa: ARG001
    with pytest.raises(ConfigError, match="there is no channel staging"):
        called("add", "staging", "team-a")
    with pytest.raises(UsageError, match="there is no key team-a"):
        called("revoke", "production", "team-a")
    with pytest.raises(UsageError, match="is not a name of a key"):
        called("add", "production", "Team A")
