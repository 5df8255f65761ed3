"""``vllm-ci bench --aa`` in a project: noise, power, and no report that could pass a policy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from standin.repository import repository
from vllm_ci.cli import root
from vllm_ci.domain.errors import ConfigError, UsageError, VllmCiError
from vllm_ci.domain.performance import PerformanceSpec
from vllm_ci.performance import pairs, power
from vllm_ci.performance.gate import Decision

TESTS = Path(__file__).parents[2]
SETTINGS = "workload: code, requests: 8, warm_up: 1, rounds: 1, pairs: {min: 3, max: 3}"
CONFIG = f"version: 1\nname: mine\nstages: {{performance: {{{SETTINGS}}}}}\n"


@pytest.mark.slow
def test_an_image_is_compared_with_itself_and_nothing_is_kept(tmp_path: Path) -> None:
    folder = repository(tmp_path / "mine", config=CONFIG)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_CI_", "STANDIN_"))}
    path = os.pathsep.join((str(TESTS.parent / "pipeline"), str(TESTS)))
    done = subprocess.run(
        [sys.executable, "-m", "standin.comparing", "bench", "--aa", "--json"],
        cwd=folder,
        env={**kept, "VLLM_CI_HOME": str(tmp_path / "home"), "VLLM_CI_ENGINE": "host", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        stdin=subprocess.DEVNULL,
    )
    found = json.loads(done.stdout)
    assert found["verdict"] in ("passed", "inconclusive", "failed"), done.stderr
    assert found["pairs"] == 3
    assert set(found["sd_of_log_ratio"]) == {"ttft_ms", "tpot_ms", "output_tokens_per_s"}
    assert sum(found["equal_images"].values()) == pytest.approx(1, abs=0.01)
    assert found["comparison"]["candidate"] == found["comparison"]["baseline"]
    assert not list(folder.glob(".vllm-ci/runs/2*"))


def call(*arguments: str) -> None:
    result = CliRunner().invoke(root, arguments, standalone_mode=False)
    if isinstance(result.exception, VllmCiError):
        raise result.exception


def test_a_url_or_a_project_is_needed() -> None:
    with pytest.raises(UsageError, match="no server to measure"):
        call("bench")


def test_a_configuration_cannot_make_an_image_its_own_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository(tmp_path / "mine", config=CONFIG.replace(SETTINGS, "baseline: self")))
    with pytest.raises(ConfigError, match=r"stages\.performance"):
        call("run", "--stage", "performance")


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "least"), [(0.02, 0.95), (0.07, 0.7)])
def test_power_falls_with_the_noise(noise: float, least: float) -> None:
    spec = PerformanceSpec()
    limits = pairs.limits(spec)
    spread = {limit.metric: noise for limit in limits}
    equal = power.shares(spread, limits, spec.looks, slowdown=0.0)
    slower = power.shares(spread, limits, spec.looks, slowdown=0.1)
    assert equal[Decision.FAILED] <= 0.05
    assert slower[Decision.FAILED] >= least
