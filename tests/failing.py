"""Names of the tests that fail, for ``ci/alone.sh``, which runs them again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "VLLM_CI_FAILED_TESTS"
"""Variable with the path of the file to which they are added, one in a line; each once."""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add a test that failed; under xdist the process that shows the results does it, for all others."""
    if not report.failed or "PYTEST_XDIST_WORKER" in os.environ or not (path := os.environ.get(VARIABLE)):
        return
    file = Path(path)
    known = file.read_text(encoding="utf-8") if file.exists() else ""
    if report.nodeid not in known.splitlines():
        file.write_text(f"{known}{report.nodeid}\n", encoding="utf-8")
