"""Security findings of a report, the worst first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vllm_ci.domain.plain import one_line
from vllm_ci.domain.report import Report
from vllm_ci.domain.stage import SEVERITIES

_LONGEST = 1000


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A finding that a case recorded.

    Attributes:
        id: Its id.
        severity: ``low``, ``medium``, ``high`` or ``critical``; ``unknown`` for anything else.
        message: What was seen.
        stage: Stage of the case.
        case: Name of the case.
        accepted: The configuration accepts it.
    """

    id: str
    severity: str
    message: str
    stage: str
    case: str
    accepted: bool


def of(report: Report) -> list[Finding]:
    """All findings, by severity, then by id."""
    found = []
    for stage in report.stages:
        for case in stage.cases:
            given, accepted = case.properties.get("findings"), case.properties.get("accepted")
            known = accepted if isinstance(accepted, list | tuple) else ()
            recorded = [each for each in (given if isinstance(given, list | tuple) else ()) if isinstance(each, Mapping)]
            found += [_finding(each, stage.name, case.name, accepted=each.get("id") in known) for each in recorded]
    return sorted(found, key=lambda each: (-_rank(each.severity), each.id, each.case))


def _finding(given: Mapping[str, object], stage: str, case: str, *, accepted: bool) -> Finding:
    severity = str(given.get("severity"))
    return Finding(
        id=one_line(str(given.get("id") or "(no id)"), 200),
        severity=severity if severity in SEVERITIES else "unknown",
        message=one_line(str(given.get("message") or ""), _LONGEST),
        stage=stage,
        case=case,
        accepted=accepted,
    )


def _rank(severity: str) -> int:
    return SEVERITIES.index(severity) if severity in SEVERITIES else -1
