"""What tests of pipelines have in common."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def in_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's directory is the current one, and the cache is its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path.parent / "home"))
