"""What this service does to an answer before its users see it."""

from __future__ import annotations

import re

_MARKER = re.compile(r"<\|[a-z_]+\|>")
_SECRET = re.compile(r"\b(?:sk|ghp|hf)[-_][A-Za-z0-9]{16,}\b")
_BLANK_LINES = re.compile(r"\n{3,}")


def clean(text: str) -> str:
    """``text`` without the template's markers and without runs of blank lines.

    A marker that the model wrote ends the answer: what follows is another turn that it made up.
    """
    marker = _MARKER.search(text)
    if marker and marker.start() > 0:
        text = text[: marker.start()]
    return _BLANK_LINES.sub("\n\n", _MARKER.sub("", text)).strip()


def redact(text: str) -> str:
    """``text`` with everything that looks like an access token blotted out."""
    return _SECRET.sub("[redacted]", text)


def answer(text: str) -> str:
    """What is sent to the user."""
    return redact(clean(text))
