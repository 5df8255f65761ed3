"""What the plugins keep on pytest's configuration. Standard library and pytest only."""

from __future__ import annotations

from typing import Any

import pytest

FACTS = pytest.StashKey[dict[str, Any]]()
"""Facts about the session, written into the report."""
MASKS = pytest.StashKey[list[str]]()
"""Secrets: text that holds one is masked before it is printed or written."""
