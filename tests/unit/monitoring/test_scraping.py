"""Servers of a deployment as targets of Prometheus."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from vllm_ci.cli import root
from vllm_ci.deploy.target import Replica
from vllm_ci.domain.errors import UsageError
from vllm_ci.manifests import names
from vllm_ci.monitoring.scraping import targets


def replica(name: str, revision: str, url: str, state: str = "ready") -> Replica:
    return Replica(name=name, revision=revision, state=state, url=url)  # type: ignore[arg-type]


def test_servers_are_grouped_by_revision_and_have_the_channels_labels() -> None:
    found = targets(
        [
            replica("2", "b", "http://127.0.0.1:4002"),
            replica("1", "b", "http://127.0.0.1:4001", "draining"),
            replica("3", "a", "http://127.0.0.1:4003"),
            replica("4", "a", "", "starting"),
            replica("5", "a", "http://127.0.0.1:4005", "failed"),
        ],
        {"channel": "production"},
        gateway="127.0.0.1:9100",
    )
    assert json.loads(json.dumps(found)) == [
        {"targets": ["127.0.0.1:4003"], "labels": {"channel": "production", "revision": "a"}},
        {"targets": ["127.0.0.1:4001", "127.0.0.1:4002"], "labels": {"channel": "production", "revision": "b"}},
        {"targets": ["127.0.0.1:9100"], "labels": {"channel": "production"}},
    ]


def test_a_channel_that_is_not_deployed_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))
    (tmp_path / "vllm-ci.yaml").write_text("version: 1\n")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(root, ["monitoring", "targets", "production"], standalone_mode=False)
    assert isinstance(result.exception, UsageError)
    assert "not deployed" in result.exception.message


@pytest.mark.parametrize("folder", ["My Chat (old)", "chat_7b", "\u804a\u5929", "x" * 90])
def test_rules_for_the_operator_have_a_name_that_kubernetes_takes(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "vllm-ci.yaml").write_text("version: 1\n")
    monkeypatch.chdir(tmp_path / folder)
    result = CliRunner().invoke(root, ["monitoring", "rules", "--operator"], standalone_mode=False)
    assert result.exception is None
    name = yaml.safe_load(result.stdout)["metadata"]["name"]
    assert names.subdomain(name) == name
