"""Small programs that are mounted into an image to run there; they use the standard library and the image's packages only."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
"""Passed to an engine as an input directory; it is never installed into an image."""
