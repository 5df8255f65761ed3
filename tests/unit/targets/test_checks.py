"""Commands that decide about a deployment: each ends with an outcome, whatever becomes of it."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from vllm_ci.config.deploy import ChecksConfig
from vllm_ci.deploy.analysis import Outcome
from vllm_ci.deploy.target import Current
from vllm_ci.targets.checks import Runner


@pytest.mark.parametrize(
    ("command", "outcome", "said"),
    [
        (["true"], Outcome.SUCCESSFUL, ""),
        (["sh", "-c", "echo no; exit 1"], Outcome.FAILED, "ended with exit code 1: no"),
        (["sh", "-c", "exit 4"], Outcome.INCONCLUSIVE, "exit code 4"),
        (["sh", "-c", "kill -9 $$"], Outcome.ERROR, "exit code 137"),
        (["sleep", "60"], Outcome.ERROR, "did not end within 0.5 s"),
        (["no-such-program"], Outcome.ERROR, "no-such-program was not found"),
        (["./not-a-program"], Outcome.ERROR, "cannot be started: "),
    ],
)
def test_every_end_of_a_command_is_an_outcome(command: list[str], outcome: Outcome, said: str, tmp_path: Path) -> None:
    (tmp_path / "not-a-program").write_text("no program")
    runner = Runner(config=ChecksConfig(before=[command], timeout_s=0.5), folder=tmp_path, model="m")
    found = anyio.run(runner.check, "before", Current(), "x")
    assert found.outcome is outcome
    assert said in found.reason
