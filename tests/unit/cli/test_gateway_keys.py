"""``vllm-ci gateway keys``: what it prints, what it keeps, and what it refuses."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from vllm_ci.cli import root
from vllm_ci.datasets.request_log import Bounds, RequestLog
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
    assert json.loads(called("revoke", "production", "team-a", "--json").stdout) == {
        "name": "team-a",
        "revoked": True,
        "deleted_rows": 0,
    }
    assert called("list", "production").stdout == ""
    assert json.loads(called("add", "production", "team-a", "--json").stdout)["key"] != first


def test_channels_and_names_that_do_not_exist_are_refused(project: Path) -> None:  # noqa: ARG001
    with pytest.raises(ConfigError, match="there is no channel staging"):
        called("add", "staging", "team-a")
    with pytest.raises(UsageError, match="there is no key team-a"):
        called("revoke", "production", "team-a")
    with pytest.raises(UsageError, match="is not a name of a key"):
        called("add", "production", "Team A")


def recorded(key: str, text: str, **request: object) -> None:
    folder = next((home() / "deploy").iterdir()) / "target" / "requests"
    row = {
        "time": datetime.now(UTC).isoformat(),
        "key": key,
        "consent": True,
        "request": {"messages": [{"role": "user", "content": text}], **request},
        "response": {"choices": [{"message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}]},
    }
    RequestLog(folder=folder).append(row, Bounds(), consents=lambda: True, now=datetime.now(UTC))


def data(*words: str) -> Result:
    return CliRunner().invoke(root, ["data", *words], catch_exceptions=False, standalone_mode=False)


@pytest.mark.slow
def test_the_request_log_is_collected_and_a_deletion_request_reaches_it(project: Path) -> None:
    called("add", "production", "team-a", "--consent")
    called("add", "production", "team-b")
    with pytest.raises(UsageError, match="the request log of production has no rows"):
        data("collect", "--requests", "production")
    recorded("team-a", "first")
    recorded("team-a", "second", user="alice")
    recorded("team-b", "never consented")
    assert json.loads(data("collect", "--requests", "production", "--json").stdout)["rows"] == 2
    assert data("collect", "--requests", "production").stdout.startswith("unchanged")
    assert "never" not in "".join(path.read_text("utf-8") for path in (project / ".vllm-ci").rglob("rows.jsonl"))
    listed = CliRunner().invoke(root, ["gateway", "requests", "production"], catch_exceptions=False).stdout
    assert "not recording" in listed
    assert "2 rows" in listed
    assert "would delete 1 of their rows in the request log of production" in data("remove", "alice", "--dry-run").stdout
    told = json.loads(data("remove", "alice", "--json").stdout)
    assert told["requests"] == {"production": 1}
    assert [each["kind"] for each in told["versions"]] == ["collected"]
    assert json.loads(data("collect", "--requests", "production", "--json").stdout)["rows"] == 1


def test_consent_is_listed_and_withdrawing_it_deletes_the_rows(project: Path) -> None:  # noqa: ARG001
    called("add", "production", "team-a")
    assert "may be recorded" in called("consent", "production", "team-a").stdout
    assert "consents to the request log since" in called("list", "production").stdout
    recorded("team-a", "first")
    assert "1 recorded rows were deleted" in called("consent", "production", "team-a", "--withdraw").stdout
    assert json.loads(called("list", "production", "--json").stdout)["keys"][0]["consents_since"] == ""
    with pytest.raises(UsageError, match="there is no key team-b"):
        called("consent", "production", "team-b")
    with pytest.raises(ConfigError, match="there is no channel staging"):
        data("collect", "--requests", "staging")


def test_recording_without_keys_is_refused(project: Path) -> None:
    path = project / "vllm-ci.yaml"
    path.write_text(f"{CONFIG}deploy: {{gateway: {{log_requests: true}}}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="needs `api_keys: true`"):
        called("list", "production")
