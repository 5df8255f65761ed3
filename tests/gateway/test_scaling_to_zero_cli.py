"""Scaling to zero from the command line, with its process in the background and the agent."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from standin.gateway import ASK
from standin.released import with_standins
from vllm_ci.cli import root
from vllm_ci.domain.errors import UsageError
from vllm_ci.engines import detached

pytestmark = pytest.mark.gateway

SETTINGS = """
deploy: {target: local, keep_s: 0, drain_s: 5, scale: {min: 0, idle: 1s, wait: 60s}}
"""


@pytest.fixture(name="home")
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a deployment whose channel has a release."""
    with_standins(tmp_path, monkeypatch, SETTINGS)
    yield tmp_path / "home" / "deploy" / "chat-staging"
    CliRunner().invoke(root, ["deploy", "stop", "staging", "--yes"], standalone_mode=False)


def call(*arguments: str) -> dict[str, Any]:
    """The one JSON object that a command prints."""
    result = CliRunner().invoke(root, [*arguments, "--json"], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def until(met: Callable[[], object], seconds: float = 40.0) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_channel_goes_to_zero_wakes_for_a_request_and_its_process_is_replaced_by_the_agent(home: Path) -> None:
    def asleep() -> bool:
        found = json.loads((home / "target" / "state.json").read_bytes())
        return bool(found["asleep"]) and not found["replicas"]

    def wakers() -> list[int]:
        return detached.marked(f"{home}/waker")

    def ask() -> int:
        return httpx.post(f"{address}/v1/completions", json=ASK, timeout=90).status_code

    address = call("deploy", "staging")["current"]["address"]
    until(asleep)
    told = CliRunner().invoke(root, ["deploy", "status", "staging"], standalone_mode=False).stdout
    assert "scaled to zero, wakes on a request" in told
    assert ask() == 200
    found = call("deploy", "status", "staging")
    assert found["scaled_to_zero"] is False
    until(lambda: call("deploy", "status", "staging")["starts"]["succeeded"] == 1)
    until(asleep)
    assert call("deploy", "staging")["changed"] is False, "what is scaled to zero serves"
    until(wakers)
    for pid in wakers():
        os.kill(pid, signal.SIGKILL)
    CliRunner().invoke(root, ["agent", "staging", "--once"], standalone_mode=False, catch_exceptions=False)
    assert ask() == 200
    assert call("deploy", "stop", "staging", "--yes")["stopped"] is True
    until(lambda: not wakers())


def test_a_channel_that_is_not_to_be_scaled_to_zero_has_no_such_process(home: Path) -> None:
    path = Path("vllm-ci.yaml")
    path.write_text(path.read_text(encoding="utf-8").replace("min: 0", "min: 1"), encoding="utf-8")
    with pytest.raises(UsageError, match="staging is not to be scaled to zero"):
        call_plain("deploy", "idle", "staging")
    path.write_text(path.read_text(encoding="utf-8").replace("min: 1", "min: 0"), encoding="utf-8")
    with pytest.raises(UsageError, match="staging is not deployed on this machine"):
        call_plain("deploy", "idle", "staging")
    assert not home.exists()


def call_plain(*arguments: str) -> None:
    result = CliRunner().invoke(root, arguments, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
