"""Text of servers, tests and users in Markdown: always a code span, in which nothing is markup, a link or a mention."""

from __future__ import annotations

import re

from vllm_ci.domain.plain import one_line

_LONGEST = 200


def code(text: str, limit: int = _LONGEST) -> str:
    """The text as one code span (CommonMark 0.31, section 6.1), also in a table of GitHub's or GitLab's; empty for no text."""
    line = one_line(text, limit).replace("|", "¦")
    if not line:
        return ""
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    return f"{fence} {line} {fence}" if "`" in line else f"`{line}`"
