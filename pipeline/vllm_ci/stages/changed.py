"""Select a fork's own tests by the changed files, from rules in the configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from vllm_ci.domain.changes import Changes
from vllm_ci.domain.report import Case, CaseStatus
from vllm_ci.domain.stage import ChangedRule, StageSpec

CASE = "stages.unit.changed"
_NOT_DETERMINED = Changes(unknown="the changed files were not determined")


def paths_for(spec: StageSpec, changes: Changes | None) -> tuple[str, ...]:
    """Test paths of a stage: those that always run, then those of every rule that a changed file matches; each once.

    If the changes are unknown, every rule applies: too many tests are better than none.
    """
    return tuple(dict.fromkeys([*spec.paths, *(path for rule in chosen(spec, changes) for path in rule.run)]))


def chosen(spec: StageSpec, changes: Changes | None) -> tuple[ChangedRule, ...]:
    """The rules that apply."""
    known = changes or _NOT_DETERMINED
    return tuple(rule for rule in spec.changed if known.unknown or _matches_any(known.files, rule.changed))


def note(spec: StageSpec, changes: Changes | None) -> Case | None:
    """A case for the report if no rule matched, or if all rules apply because the changes are unknown; otherwise nothing."""
    known = changes or _NOT_DETERMINED
    if not spec.changed:
        return None
    if known.unknown:
        why = f"the changed files are unknown, so the tests of all {len(spec.changed)} rules were run: {known.unknown}"
    elif not chosen(spec, known):
        why = f"no rule matches the {len(known.files)} files that differ from {known.base}: none of the rules' tests were run"
    else:
        return None
    return Case(name=CASE, status=CaseStatus.SKIPPED, message=why)


def _matches_any(files: Iterable[str], patterns: Iterable[str]) -> bool:
    patterns = tuple(patterns)
    return any(matches(file, pattern) for file in files for pattern in patterns)


def matches(path: str, pattern: str) -> bool:
    """Whether a path matches: ``*`` and ``?`` stay within a directory, ``**`` does not, a directory matches all files in it."""
    return _expression(pattern).fullmatch(path) is not None


@lru_cache(maxsize=1024)
def _expression(pattern: str) -> re.Pattern[str]:
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    name = pattern.removeprefix("./").rstrip("/")
    text = re.sub(r"\*\*/|\*\*|\*|\?|[^*?]+", lambda found: parts.get(found[0]) or re.escape(found[0]), name)
    return re.compile(f"{text}(?:/.*)?", re.DOTALL)
