"""The pytest plugin for tests inside an image: report and manifest of the image. Needs only the standard library and pytest."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_ci.suites.plugins.image import document

pytest_plugins = ("vllm_ci.suites.plugins.reporter", "vllm_ci.suites.plugins.deselected", "vllm_ci.suites.plugins.image")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for the image's manifest."""
    group = parser.getgroup("vllm-ci")
    group.addoption("--vllm-manifest", metavar="FILE", default=None, help="expected files of the image (JSON)")


@pytest.fixture(scope="session")
def manifest(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The builder's manifest of the image: the files of each distribution."""
    absent = "--vllm-manifest FILE was not given: the expected files of the image are unknown"
    return document(request.config.option.vllm_manifest, absent)
