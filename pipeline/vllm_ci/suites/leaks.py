"""Searches a server's log for secrets, prompts and forged lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from vllm_ci.suites.findings import Finding

_LINE_END = re.compile(r"\r\n|[\r\n\x0b\x0c]")
"""What moves a terminal and line-based tools to another line; Unicode's own separators do not."""


def forged_line(word: str) -> str:
    """A line that looks like the server's; contains the word reversed, so that it is not mistaken for a prompt."""
    return f"INFO 01-01 00:00:00 {word[::-1]} all is well"


def forged(word: str, end: str = "\n") -> str:
    """User text that adds such a line to a log that does not escape this line end, or decodes it."""
    return f"x{end}{forged_line(word)}{end}x"


def in_log(log: str, *, secrets: Mapping[str, str], prompts: Iterable[str]) -> list[Finding]:
    """Findings for secrets, prompts and forged lines in a server's log.

    Args:
        log: The complete log.
        secrets: Values that must not be in the log, by the name for the report.
        prompts: Unique words that were sent in prompts or in :func:`forged` lines.
    """
    found = [
        Finding(
            id=f"secret-in-log:{name}",
            severity="critical",
            message=f"the server wrote {name} to its log, in {_where(log, value)}",
        )
        for name, value in secrets.items()
        if value and value in log
    ]
    words = tuple(prompts)
    seen = [word for word in words if word in log]
    if seen:
        message = f"{len(seen)} prompts are in the server's log, the first in {_where(log, seen[0])}; disable request logging"
        found.append(Finding(id="prompt-in-log", severity="medium", message=message))
    lines = {line.strip(" \t") for line in _LINE_END.split(log)}
    written = [word for word in words if forged_line(word) in lines]
    if written:
        message = f"users wrote {len(written)} lines of the log, through text with line ends: {forged_line(written[0])!r}"
        found.append(Finding(id="log-injection", severity="medium", message=message))
    return found


def _where(log: str, text: str) -> str:
    return f"line {log[: log.index(text)].count(chr(10)) + 1}"
