"""Which of a fork's own tests a change calls for, from a table in data."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from vllm_ci.domain.changes import Changes
from vllm_ci.domain.report import Case, CaseStatus
from vllm_ci.domain.stage import ChangedRule, StageSpec

CASE = "stages.unit.changed"
_NOBODY_LOOKED = Changes(unknown="nothing says what changed")


def paths_for(spec: StageSpec, changes: Changes | None) -> tuple[str, ...]:
    """Test paths of a stage: those always run, then those of every rule that a changed file matches; each once.

    Where it is not known what changed, every rule counts: too many tests are better than none.
    """
    return tuple(dict.fromkeys([*spec.paths, *(path for rule in chosen(spec, changes) for path in rule.run)]))


def chosen(spec: StageSpec, changes: Changes | None) -> tuple[ChangedRule, ...]:
    """The rules that count."""
    known = changes or _NOBODY_LOOKED
    return tuple(rule for rule in spec.changed if known.unknown or _matches_any(known.files, rule.changed))


def note(spec: StageSpec, changes: Changes | None) -> Case | None:
    """For the report: that no rule matched, or that all of them counted because the changes are unknown; otherwise nothing."""
    known = changes or _NOBODY_LOOKED
    if not spec.changed:
        return None
    if known.unknown:
        why = f"what changed is not known, so the tests of all {len(spec.changed)} rules were run: {known.unknown}"
    elif not chosen(spec, known):
        why = f"no rule matches the {len(known.files)} files that differ from {known.base}: none of their tests was run"
    else:
        return None
    return Case(name=CASE, status=CaseStatus.SKIPPED, message=why)


def _matches_any(files: Iterable[str], patterns: Iterable[str]) -> bool:
    patterns = tuple(patterns)
    return any(matches(file, pattern) for file in files for pattern in patterns)


def matches(path: str, pattern: str) -> bool:
    """Whether a path matches: ``*`` and ``?`` stay within a folder, ``**`` crosses folders, a folder's name means all in it."""
    return _expression(pattern).fullmatch(path) is not None


@lru_cache(maxsize=1024)
def _expression(pattern: str) -> re.Pattern[str]:
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    name = pattern.removeprefix("./").rstrip("/")
    text = re.sub(r"\*\*/|\*\*|\*|\?|[^*?]+", lambda found: parts.get(found[0]) or re.escape(found[0]), name)
    return re.compile(f"{text}(?:/.*)?", re.DOTALL)
