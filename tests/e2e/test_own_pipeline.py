"""The example with a pipeline of its own, on the real vLLM: stages in YAML and in Python, in one report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from e2e.conftest import ROOT, git, vllm_ci

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


@pytest.fixture
def own_pipeline(tmp_path: Path, spec: str) -> Path:
    """The example as a user's own repository."""
    folder = tmp_path / "own-pipeline"
    ignored = shutil.ignore_patterns(".vllm-ci", "__pycache__")
    shutil.copytree(ROOT / "examples" / "own-pipeline", folder, ignore=ignored)
    config = folder / "vllm-ci.yaml"
    config.write_text(config.read_text().replace("  spec: cpu\n", f"  spec: {spec}\n"))
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "own pipeline")
    return folder


def test_the_example_runs_its_own_stages_on_the_real_vllm(own_pipeline: Path) -> None:
    ended = vllm_ci(own_pipeline, "run", "--json")
    assert ended.code == 0, ended.stderr[-6000:]
    result = ended.json
    assert {stage["name"]: stage["verdict"] for stage in result["stages"]} == {
        "versions": "passed",
        "smoke": "passed",
        "latency": "passed",
    }
    assert "pipeline ci/pipeline.py (found next to vllm-ci.yaml; stages: latency)" in ended.stderr
    report = json.loads(Path(result["report_dir"], "report.json").read_text(encoding="utf-8"))
    cases = {stage["name"]: len(stage["cases"]) for stage in report["stages"]}
    assert cases == {"versions": 1, "smoke": 2, "latency": 3}
    assert report["double"] is False
    assert result["commit"]["dirty"] is False
    again = vllm_ci(own_pipeline, "run", "--json", "--stage", "versions")
    assert [stage["name"] for stage in again.json["stages"]] == ["versions"]
    assert again.json["commit"]["dirty"] is False, "a run leaves the work tree clean"
