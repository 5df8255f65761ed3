"""Text of other programs made safe to show: servers, tests and tools may write anything, also terminal sequences."""

from __future__ import annotations

import re

# Control characters except tab and newline, directional overrides, invisible marks, halves of surrogate pairs.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]")
_BREAKS = re.compile("[\\s\x85\u2028\u2029]+")


def visible(text: str) -> str:
    r"""The text with characters that a terminal or a page would not show, or would obey, as escapes (``\x1b``)."""
    return _UNSEEN.sub(_escape, text.replace("\r\n", "\n"))


def one_line(text: str, limit: int) -> str:
    """The text in one visible line of at most ``limit`` characters; what is cut off is marked by ``…``."""
    # Twice the limit is enough: only runs of white space become shorter.
    line = visible(_BREAKS.sub(" ", text[: 2 * limit + 1]).strip())
    return line if len(line) <= limit and len(text) <= 2 * limit else f"{line[: limit - 1]}…"


def excerpt(text: str, limit: int) -> str:
    """The beginning of a visible text of several lines, with the number of characters that were left out."""
    if len(text) <= limit:
        return visible(text)
    return f"{visible(text[:limit])}… ({len(text) - limit} more characters)"


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
