"""Fixtures of the builder's tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from imagery.world import World, furnish
from vllm_ci.images import interpreter


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A furnished world, with this very interpreter in place of the base's (which is a few bytes here)."""
    at_home(monkeypatch, tmp_path)
    return furnish(tmp_path)


def at_home(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Find wheels and packages under ``root``, and nowhere else."""
    for name in ("PIP_INDEX_URL", "UV_INDEX_URL", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "UV_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_FIND_LINKS", str(root / "links"))
    monkeypatch.setenv("VLLM_CI_DEBIAN_MIRROR", str(root / "mirror"))
    monkeypatch.setenv("VLLM_CI_HOME", str(root / "home"))
    monkeypatch.setattr(interpreter, "interpreter", lambda *_: ([sys.executable], {}))
