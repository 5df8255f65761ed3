"""The comparison of clients runs: what it measures is for its own runs to say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "client.py"


@pytest.mark.slow
def test_every_client_reads_every_event() -> None:
    few = ("--rounds", "1", "--streams", "3", "--rate", "3000", "--events", "40", "--json")
    done = subprocess.run([sys.executable, str(SCRIPT), *few], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(done.stdout)
    assert sorted(found["medians"]) == ["aiohttp", "httpx", "openai", "vllm bench serve", "vllm-ci"]
    assert {result["events"] for results in found["rounds"] for result in results} == {120}
    assert all(result["lag_p50_us"] > 0 for results in found["rounds"] for result in results)
    assert found["bounds_held"] is (done.returncode == 0)
