"""``vllm-ci test --url ... -k EXPRESSION`` runs just the cases that a report names, and never counts as a test of a commit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import vllm_ci
from doubles.running import running
from doubles.server import Double
from vllm_ci.domain.errors import FailedError
from vllm_ci.domain.image import ImageRef
from vllm_ci.evidence.predicates import test_result
from vllm_ci.report import document

pytestmark = pytest.mark.slow

_PACKAGE = Path(vllm_ci.__file__).parents[1]


def vllm_ci_test(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vllm_ci", "test", "--json", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(_PACKAGE), "VLLM_CI_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def test_only_the_cases_that_match_are_run_and_the_rest_is_not_missing(tmp_path: Path) -> None:
    with running(Double) as (url, _):
        listed = vllm_ci_test(tmp_path, "--url", url, "--stage", "integration", "-k", "test_models")
    found: dict[str, Any] = json.loads(listed.stdout)
    (stage,) = found["stages"]
    assert found["verdict"] == "passed", listed.stderr[-2000:]
    assert stage["cases"]["passed"] > 0
    report = document.from_json(json.loads((Path(found["report_dir"]) / "report.json").read_text(encoding="utf-8")))
    assert all("test_models" in case.name for case in report.stages[0].cases)
    with pytest.raises(FailedError, match="names no commit"):
        test_result.check(replace(report, double=False), ImageRef(repository="x", digest="sha256:" + "b" * 64))


@pytest.mark.parametrize("expression", ["test_nothing_has_this_name", "test_x and (", "not"])
def test_an_expression_that_selects_nothing_or_is_wrong_is_errored_and_never_passed(tmp_path: Path, expression: str) -> None:
    with running(Double) as (url, _):
        done = vllm_ci_test(tmp_path, "--url", url, "--stage", "integration", "-k", expression)
    assert done.returncode == 3, done.stderr[-2000:]
    assert json.loads(done.stdout)["stages"][0]["failures"][0]["message"]


def test_without_a_url_it_is_refused_with_the_reason(tmp_path: Path) -> None:
    done = vllm_ci_test(tmp_path, "-k", "test_x")
    assert done.returncode == 2
    assert "-k needs --url" in done.stderr
    assert "must not count as that of the commit" in done.stderr
