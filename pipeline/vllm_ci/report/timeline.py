"""The steps of a run on one axis: what took how long, and what ran beside what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vllm_ci.domain.report import Report


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A step on the axis.

    Attributes:
        step: Its name.
        begun: Seconds from the start of the run; ``None`` if it is unknown.
        seconds: How long it took.
        left: Start of its bar, in percent of the width.
        width: Width of its bar, in percent.
        verdict: Of a stage; empty for other steps.
    """

    step: str
    begun: float | None
    seconds: float
    left: float
    width: float
    verdict: str


def bars(report: Report) -> list[Bar]:
    """The steps by their start. Reports of earlier versions have only durations: their bars all start at the left."""
    ends = [report.begun.get(step, 0.0) + seconds for step, seconds in report.timings.items()]
    longest = max([report.seconds if report.begun else 0.0, *ends], default=0.0) or 1.0
    verdicts = {stage.name: stage.verdict.value for stage in report.stages}
    found = [_bar(step, seconds, report.begun, longest, verdicts) for step, seconds in report.timings.items()]
    return sorted(found, key=lambda bar: bar.begun or 0.0)


def _bar(step: str, seconds: float, begun: Mapping[str, float], longest: float, verdicts: Mapping[str, str]) -> Bar:
    left = 100 * begun.get(step, 0.0) / longest
    return Bar(
        step=step,
        begun=begun.get(step),
        seconds=seconds,
        left=round(min(left, 99.7), 2),
        width=round(max(min(100 * seconds / longest, 100 - left), 0.3), 2),
        verdict=verdicts.get(step, ""),
    )
