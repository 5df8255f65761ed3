"""Plugin with the OCI configuration of the tested image. Needs only the standard library and pytest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    group = parser.getgroup("vllm-ci")
    group.addoption("--vllm-image-config", metavar="FILE", default=None, help="the image's OCI configuration (JSON)")


@pytest.fixture(scope="session")
def image_config(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The image's OCI configuration (OCI image specification, ``config.md``)."""
    absent = "--vllm-image-config FILE was not given: the image's configuration is unknown"
    return document(request.config.option.vllm_image_config, absent)


def document(name: str | None, absent: str) -> dict[str, Any]:
    """The JSON object in the file ``name``; without a file, the case is skipped with the reason ``absent``."""
    if not name:
        pytest.skip(absent)
    found: dict[str, Any] = json.loads(Path(name).read_text(encoding="utf-8"))
    return found
