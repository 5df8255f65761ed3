"""Small programs that run inside an image, beside what is published: the standard library and the image's own packages only."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
"""Handed to an engine as an input directory; nothing of it is ever installed into an image."""
