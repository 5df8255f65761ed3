"""Causes as the reports of other formats have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vllm_ci.domain.causes import Cause, SkipReason
from vllm_ci.domain.report import Case, StageResult

# Properties of a case that describe its cause.
ABOUT_THE_CAUSE = ("cause", "exchange")


def to_json(cause: Cause) -> dict[str, Any]:
    """The cause as plain data; ``request`` and ``response`` are left out if they are unknown."""
    exchange = {"request": cause.request, "response": cause.response}
    return {
        **brief(cause),
        "cases": [{"stage": case.stage, "case": case.name} for case in cause.cases],
        **{name: text for name, text in exchange.items() if text},
    }


def brief(cause: Cause) -> dict[str, str]:
    """The cause without its cases."""
    return {
        "id": cause.id,
        "title": cause.title,
        "status": cause.status.value,
        "severity": cause.severity,
        "rule": cause.rule,
    }


def skip_to_json(skip: SkipReason) -> dict[str, Any]:
    """A reason of skipped cases as plain data."""
    return {"reason": skip.reason, "cases": skip.count}


class CausesOfCases:
    """The causes of a report, to be looked up by case."""

    def __init__(self, causes: Iterable[Cause]) -> None:
        self._found: dict[tuple[str, str], list[Cause]] = {}
        for cause in causes:
            for case in cause.cases:
                self._found.setdefault((case.stage, case.name), []).append(cause)

    def of(self, stage: StageResult, case: Case) -> list[Cause]:
        """Causes of a case, the worst first; none if it passed. A case named like its stage stands for the whole stage."""
        found = self._found.get((stage.name, case.name))
        return found or (self._found.get((stage.name, ""), []) if case.name == stage.name else [])


def other_properties(case: Case) -> Mapping[str, object]:
    """Properties of a case without those that describe its cause."""
    return {name: value for name, value in case.properties.items() if name not in ABOUT_THE_CAUSE}
