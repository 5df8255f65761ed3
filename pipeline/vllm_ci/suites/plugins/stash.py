"""Keys for data that the plugins store on pytest's configuration. Needs only the standard library and pytest."""

from __future__ import annotations

from typing import Any

import pytest

FACTS = pytest.StashKey[dict[str, Any]]()
"""Facts about the session, written into the report."""
MASKS = pytest.StashKey[list[str]]()
"""Secrets that are masked in everything that is printed or written."""
