"""A channel that is served in a cluster: what only the gateway and the agent of one machine do is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from vllm_ci.cli import root
from vllm_ci.config.load import load
from vllm_ci.domain.errors import ConfigError, UsageError


def written(folder: Path, deploy: str) -> Path:
    file = folder / "vllm-ci.yaml"
    file.write_text(f"version: 1\ndeploy:\n{deploy}", encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("setting", "key", "why"),
    [
        ("scale: {min: 0, max: 2}", "deploy.scale", "keeps the number of servers at target local only"),
        ("gateway: {api_keys: true}", "deploy.gateway.api_keys", "only the gateway of target local"),
        ("gateway: {api_keys: true, requests_per_minute: 9}", "deploy.gateway.api_keys", "only the gateway"),
        ("gateway: {requests_per_minute: 9, api_keys: true}", "deploy.gateway.api_keys", "only the gateway"),
    ],
)
def test_a_setting_without_effect_is_refused_with_its_line(tmp_path: Path, setting: str, key: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, f"  target: kubernetes\n  {setting}\n"))
    assert f"vllm-ci.yaml:4: {key} is not valid" in caught.value.message
    assert "`target: kubernetes`" in caught.value.why
    assert why in caught.value.why
    assert caught.value.remedy


def test_a_channel_of_its_own_target_is_looked_at_with_the_common_settings(tmp_path: Path) -> None:
    common = "  gateway: {api_keys: true}\n  channels:\n    production: {target: kubernetes"
    with pytest.raises(ConfigError, match=r"vllm-ci.yaml:3: deploy.gateway.api_keys is not valid") as caught:
        load(written(tmp_path, f"{common}}}\n"))
    assert "channel production" in caught.value.why
    assert load(written(tmp_path, f"{common}, gateway: {{api_keys: false}}}}\n")).config.deploy.of("staging").gateway.api_keys


def test_a_target_of_the_command_line_is_refused_before_anything_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))
    written(tmp_path, "  gateway: {api_keys: true}\n  scale: {max: 2}\n")
    ended = CliRunner().invoke(root, ["deploy", "staging", "--target", "kubernetes"])
    assert isinstance(ended.exception, UsageError)
    assert "deploy.scale and deploy.gateway.api_keys cannot be used with target kubernetes" in ended.exception.message
