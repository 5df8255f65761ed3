"""What must not show up in a server's log, and how to see that it does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vllm_ci.suites.findings import Finding


def forged_line(word: str) -> str:
    """A line that looks like the server's own; it holds the word backwards, so that it is not taken for a prompt."""
    return f"INFO 01-01 00:00:00 {word[::-1]} all is well"


def forged(word: str) -> str:
    """Text of a user that puts such a line into a log that takes text as it is."""
    return f"x\n{forged_line(word)}\nx"


def in_log(log: str, *, secrets: Mapping[str, str], prompts: Iterable[str]) -> list[Finding]:
    """Findings of a server log that holds a secret or what users said.

    Args:
        log: The whole text.
        secrets: What must never be there, by the name to report it under.
        prompts: Unguessable words that were sent in prompts; some of them backwards in :func:`forged` lines.
    """
    found = [
        Finding(
            id=f"secret-in-log:{name}", severity="critical", message=f"the server wrote {name} to its log, {_where(log, value)}"
        )
        for name, value in secrets.items()
        if value and value in log
    ]
    words = tuple(prompts)
    seen = [word for word in words if word in log]
    if seen:
        message = (
            f"{len(seen)} prompts are in the server's log, the first {_where(log, seen[0])}; run it without request logging"
        )
        found.append(Finding(id="prompt-in-log", severity="medium", message=message))
    lines = set(log.splitlines())
    written = [word for word in words if forged_line(word) in lines]
    if written:
        message = f"{len(written)} lines of the log were written by users, through a model's name or the user field"
        found.append(Finding(id="log-injection", severity="medium", message=message))
    return found


def _where(log: str, text: str) -> str:
    return f"line {log[: log.index(text)].count(chr(10)) + 1}"
