"""Which of a fork's own tests a change calls for, from a table in data."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from vllm_ci.domain.stage import StageSpec


def paths_for(spec: StageSpec, changed: Iterable[str]) -> tuple[str, ...]:
    """Test paths of a stage: those always run, then those of every rule that a changed file matches; each once."""
    files = tuple(changed)
    chosen = list(spec.paths)
    for rule in spec.changed:
        if any(matches(file, pattern) for pattern in rule.changed for file in files):
            chosen.extend(rule.run)
    return tuple(dict.fromkeys(chosen))


def matches(path: str, pattern: str) -> bool:
    """Whether a path matches: ``*`` and ``?`` stay within a folder, ``**`` crosses folders, a folder's name means all in it."""
    return _expression(pattern).fullmatch(path) is not None


@lru_cache(maxsize=1024)
def _expression(pattern: str) -> re.Pattern[str]:
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    text = re.sub(r"\*\*/|\*\*|\*|\?|[^*?]+", lambda found: parts.get(found[0]) or re.escape(found[0]), pattern.rstrip("/"))
    return re.compile(f"{text}(?:/.*)?")
