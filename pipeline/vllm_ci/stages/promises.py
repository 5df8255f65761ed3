"""Check that a suite reports all of its cases: a missing case must not look like a pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from vllm_ci.domain.report import Case
from vllm_ci.stages.reading import Reading
from vllm_ci.suites import manifest

_SHOWN = 5


def kept(reading: Reading, suite: str, expected: Mapping[str, int]) -> Reading:
    """The reading, marked as incomplete if built-in cases are missing.

    Skipped cases count as reported; cases that the user deselected (``-k``, ``-m``, ``--deselect``) are
    recorded by the plugins and may be missing.

    Args:
        reading: The program's report.
        suite: Name of the suite, for the message.
        expected: Number of cases by function (:func:`vllm_ci.suites.manifest.promised`).
    """
    if reading.trouble:
        return reading
    missing = manifest.missing(expected, (case.name for case in reading.cases), _deselected(reading.cases, reading.facts))
    return replace(reading, trouble=_message(suite, sum(expected.values()), missing)) if missing else reading


def _deselected(cases: Iterable[Case], facts: Mapping[str, object]) -> list[str]:
    noted = facts.get("deselected")
    ran = {case.name for case in cases}
    return [str(name) for name in noted if name not in ran] if isinstance(noted, list) else []


def _message(suite: str, promised: int, missing: Mapping[str, int]) -> str:
    lines = [f"  {name} ({count} missing)" for name, count in sorted(missing.items())[:_SHOWN]]
    more = [f"  and {len(missing) - _SHOWN} more functions"] if len(missing) > _SHOWN else []
    return "\n".join(
        [
            f"{sum(missing.values())} of the {promised} cases of the suite {suite} are missing from its report:",
            *lines,
            *more,
            "  why: a file was not collected (--ignore, a plugin, a damaged installation), or a parameter was removed",
            "  do:  deselect cases with -k, -m or --deselect, which are recorded; otherwise reinstall vllm-ci",
        ]
    )
