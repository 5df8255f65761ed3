"""The plugin for tests that run inside an image: our report, and what the image is said to be. Standard library and pytest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ("vllm_ci.suites.reporter",)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options about the image, with our prefix."""
    group = parser.getgroup("vllm-ci")
    group.addoption("--vllm-manifest", metavar="FILE", default=None, help="what the image's files must be (JSON)")
    group.addoption("--vllm-image-config", metavar="FILE", default=None, help="the image's OCI configuration (JSON)")


@pytest.fixture(scope="session")
def manifest(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the builder says about the image: distributions, files, labels."""
    return _document(
        request, "vllm_manifest", "--vllm-manifest FILE was not given: nothing is known about how the image was made"
    )


@pytest.fixture(scope="session")
def image_config(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The image's OCI configuration (OCI image specification, ``config.md``)."""
    return _document(
        request, "vllm_image_config", "--vllm-image-config FILE was not given: the image's configuration is unknown"
    )


def _document(request: pytest.FixtureRequest, option: str, absent: str) -> dict[str, Any]:
    name = request.config.getoption(option)
    if not name:
        pytest.skip(absent)
    document: dict[str, Any] = json.loads(Path(name).read_text(encoding="utf-8"))
    return document
