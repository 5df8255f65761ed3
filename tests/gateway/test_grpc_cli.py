"""A channel that serves gRPC, from ``vllm-ci.yaml`` and the command line: deploy, status, roll back, change of protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from standin.grpc_streams import client
from standin.released import release, with_standins
from vllm_ci.cli import root
from vllm_ci.domain.errors import UsageError, VllmCiError

pytestmark = pytest.mark.gateway

SETTINGS = """
deploy:
  target: local
  protocol: grpc
  drain_s: 5
  keep_s: 60
  gateway: {api_keys: true}
  checks: {before: [[sh, -c, 'test -n "$VLLM_CI_GRPC"']]}
"""


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project whose channel has a release, and whose servers are stand-ins."""
    folder = with_standins(tmp_path, monkeypatch, SETTINGS)
    yield folder
    CliRunner().invoke(root, ["deploy", "stop", "staging", "--yes"], standalone_mode=False)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(root, arguments, standalone_mode=False)
    if isinstance(result.exception, VllmCiError):
        raise result.exception
    assert result.exception is None, result.exception
    return str(result.stdout)


def call(*arguments: str) -> dict[str, Any]:
    """The one JSON object that a command prints."""
    value: dict[str, Any] = json.loads(run(*arguments, "--json"))
    return value


def served(address: str, key: str) -> str:
    """The revision that answers a generation."""
    with ExitStack() as stack:
        found = client(stack, address, key=key).generate(3)
        assert found.whole(3), found
        return found.metadata["x-vllm-ci-revision"]


def test_a_channel_serves_grpc_changes_its_release_and_goes_back(folder: Path) -> None:
    address = call("deploy", "staging")["current"]["address"]
    assert address.startswith("grpc://127.0.0.1:")
    key = run("gateway", "keys", "add", "staging", "team-a").split()[-1]
    first = served(address, key)
    assert address in run("deploy", "status", "staging")
    release(folder, "second")
    assert call("deploy", "staging", "--strategy", "canary", "--dry-run")["plan"]
    assert call("deploy", "staging")["changed"] is True
    second = served(address, key)
    assert second != first
    run("rollback", "staging", "--reason", "a test")
    assert served(address, key) == first
    assert call("deploy", "status", "staging")["address"] == address


def test_another_protocol_is_refused_until_the_channel_is_stopped(folder: Path) -> None:
    call("deploy", "staging")
    path = folder / "vllm-ci.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("protocol: grpc", "protocol: http"), encoding="utf-8")
    with pytest.raises(UsageError, match="what serves speaks grpc, and this release would speak http") as caught:
        run("deploy", "staging")
    assert "vllm-ci deploy stop" in caught.value.remedy
    assert call("deploy", "status", "staging")["address"].startswith("grpc://")
    run("deploy", "stop", "staging", "--yes")
    path.write_text(path.read_text(encoding="utf-8").replace('"$VLLM_CI_GRPC"', '"$VLLM_CI_URL"'), encoding="utf-8")
    assert call("deploy", "staging")["current"]["address"].startswith("http://")
