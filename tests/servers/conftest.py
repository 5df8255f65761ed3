"""The matrix runs only where it is asked for: it installs 9 GB and takes hours."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the rows unless the mark is named, so that ``ci/test tests/servers`` only tests what compares results."""
    if "servers" in str(config.option.markexpr):
        return
    skipped = pytest.mark.skip(reason="a row of the matrix takes minutes; run it with -m servers")
    for item in items:
        if item.get_closest_marker("servers"):
            item.add_marker(skipped)
