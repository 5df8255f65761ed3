"""Check that a suite reports all of its cases: a missing case must not look like a pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from vllm_ci.domain.report import Case, CaseStatus
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


def enough(reading: Reading, suite: str, share: float) -> Reading:
    """The reading, marked as unreliable if nearly all built-in cases were skipped: little was checked.

    Args:
        reading: The program's report.
        suite: Name of the suite, for the message.
        share: Least share of cases that must have run.
    """
    skipped = [case.message for case in reading.cases if case.status is CaseStatus.SKIPPED]
    ran, count = len(reading.cases) - len(skipped), len(reading.cases)
    if reading.trouble or not count or ran >= share * count:
        return reading
    reasons = [f"  {times} skipped: {reason[:200]}" for reason, times in Counter(skipped).most_common(_SHOWN)]
    message = [
        f"only {ran} of {count} cases of the suite {suite} ran; at least {share:.0%} are required",
        *reasons,
        "  do:  choose another model with --model, or lower `min_share` of the stage if the server really offers only this",
    ]
    return replace(reading, trouble="\n".join(message))


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
