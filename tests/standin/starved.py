"""A verdict that a machine without processor time could not give."""

from __future__ import annotations

import json

import pytest

_INCONCLUSIVE = 4


def skip_if_starved(code: int, output: str) -> None:
    """Skip if a run is inconclusive, and only because the machine was busy."""
    if code != _INCONCLUSIVE:
        return
    causes = json.loads(output)["causes"]
    if causes and all(each["status"] == "inconclusive" and "machine was busy" in each["title"] for each in causes):
        pytest.skip(f"this machine had no processor time to tell: {causes[0]['title'][:200]}")
