"""The page about monitoring says what the list of signals says."""

from __future__ import annotations

from pathlib import Path

from vllm_ci.monitoring.reference import table


def test_the_table_of_signals_is_current() -> None:
    page = Path(__file__).parents[3] / "docs" / "monitoring.md"
    assert table() in page.read_text(encoding="utf-8"), "write it anew: python -m vllm_ci.monitoring.reference"
