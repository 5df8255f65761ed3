"""Fixtures of the cases that run inside an image."""

from __future__ import annotations

import os
from typing import Any

import pytest

from vllm_ci.suites.unit.tree import Tree, tree

_VLLM = "/vllm/__init__.py"
_NICE = 10


@pytest.fixture(scope="session", autouse=True)
def _behind_the_server() -> None:
    """Leave the processors to the server that starts meanwhile: all other stages wait for it."""
    os.nice(_NICE)


@pytest.fixture(scope="session")
def where(manifest: dict[str, Any]) -> Tree:
    """The image's files."""
    return tree(manifest)


@pytest.fixture(scope="session")
def packages(manifest: dict[str, Any]) -> str:
    """The folder that wheels are installed in, as a path in the image."""
    inits: set[str] = {path for files in manifest.values() for path in files if path.endswith(_VLLM)}
    (found,) = inits
    return found.removesuffix(_VLLM)
