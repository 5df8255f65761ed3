"""A plugin that takes a case out of a run without saying so, as some do."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if item.name != "test_says_why_it_ended"]
