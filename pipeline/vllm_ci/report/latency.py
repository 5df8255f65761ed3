"""Latencies of two versions, with the doubt that few runs leave.

One value stands for one run: starts of the same server differ more than requests to one of them do
(docs/decisions/performance-gate.md). The value of a run is the geometric mean over the cases that all runs measured, so that
each case counts the same.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from vllm_ci.domain.plain_json import is_number
from vllm_ci.domain.report import CaseStatus, Report
from vllm_ci.report.document import LARGEST

_NAMES = ("ttft_ms", "tpot_ms", "e2e_ms")
# If nothing differs, 4 and 4 runs are completely apart with a probability of 1/70 in each direction; there are three latencies.
_LEAST_RUNS = 4
_LEAST_CASES = 4
# Smaller differences are not mentioned: 38 to 57 % of pairs of runs of the same server differ by more than this.
_WORTH_SAYING = 0.10
_WORTH_FAILING = 0.05


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One latency in both versions.

    Attributes:
        metric: ``ttft_ms``, ``tpot_ms`` or ``e2e_ms``.
        change: Newer over older minus one; positive is slower.
        low: The least that any pair of runs gives.
        high: The most that any pair of runs gives.
        cases: Number of cases that all runs measured.
        runs: Number of older and of newer runs.
        decision: ``slower`` or ``faster`` if each newer run is on that side of each older run and there are at least
            four of both; ``maybe slower`` or ``maybe faster``; otherwise ``no clear difference``.
    """

    metric: str
    change: float
    low: float
    high: float
    cases: int
    runs: tuple[int, int]
    decision: str


def speeds(older: Sequence[Report], newer: Sequence[Report]) -> tuple[Speed, ...]:
    """The latencies that all runs measured in at least four cases."""
    return tuple(found for name in _NAMES if (found := _speed(name, older, newer)) is not None)


def _speed(name: str, older: Sequence[Report], newer: Sequence[Report]) -> Speed | None:
    measured = [_measured(name, report) for report in (*older, *newer)]
    shared = set.intersection(*(set(each) for each in measured))
    if len(shared) < _LEAST_CASES:
        return None
    means = [statistics.fmean(math.log(each[key]) for key in shared) for each in measured]
    before, after = means[: len(older)], means[len(older) :]
    change, low, high = (
        math.expm1(each)
        for each in (statistics.median(after) - statistics.median(before), min(after) - max(before), max(after) - min(before))
    )
    return Speed(
        metric=name,
        change=change,
        low=low,
        high=high,
        cases=len(shared),
        runs=(len(older), len(newer)),
        decision=_decision(change, low, high, enough=min(len(older), len(newer)) >= _LEAST_RUNS),
    )


def _measured(name: str, report: Report) -> dict[tuple[str, str], float]:
    return {
        (stage.name, case.name): float(value)
        for stage in report.stages
        for case in stage.cases
        if case.status is CaseStatus.PASSED
        and is_number(value := case.properties.get(name))
        and 1 / LARGEST <= value <= LARGEST
    }


def _decision(change: float, low: float, high: float, *, enough: bool) -> str:
    if enough and low > 0 and change > _WORTH_FAILING:
        return "slower"
    if enough and high < 0 and change < -_WORTH_FAILING:
        return "faster"
    if abs(change) <= _WORTH_SAYING:
        return "no clear difference"
    return "maybe slower" if change > 0 else "maybe faster"
