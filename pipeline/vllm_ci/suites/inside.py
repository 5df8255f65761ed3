"""The plugin for tests that run inside an image: our report, and what the image is said to be. Standard library and pytest."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_ci.suites.plugins.image import document

pytest_plugins = ("vllm_ci.suites.plugins.reporter", "vllm_ci.suites.plugins.deselected", "vllm_ci.suites.plugins.image")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options about what lies in the image, with our prefix."""
    group = parser.getgroup("vllm-ci")
    group.addoption("--vllm-manifest", metavar="FILE", default=None, help="what the image's files must be (JSON)")


@pytest.fixture(scope="session")
def manifest(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the builder says about the image: distributions, files, labels."""
    absent = "--vllm-manifest FILE was not given: nothing is known about how the image was made"
    return document(request.config.option.vllm_manifest, absent)
