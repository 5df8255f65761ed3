"""``--durations N``: the cases of a report that took longest."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from vllm_ci.domain.report import Report

DURATIONS = {
    "type": click.IntRange(min=0),
    "metavar": "N",
    "default": 0,
    "help": "Also show the N cases that took longest, and the share of each stage that its cases account for.",
}


def slowest(report: Report, count: int) -> list[str]:
    """The ``count`` slowest cases, one line each, then a line for each stage with cases.

    Args:
        report: A report.
        count: How many; 0 gives no lines at all.
    """
    if not count:
        return []
    cases = ((case.seconds, stage.name, case.name) for stage in report.stages for case in stage.cases)
    found = heapq.nlargest(count, cases)
    lines = [
        f"{seconds:8.2f} s  {name if name.startswith(f'{stage}/') else f'{stage}: {name}'}" for seconds, stage, name in found
    ]
    for stage in report.stages:
        if stage.cases:
            spent = sum(case.seconds for case in stage.cases)
            lines.append(f"{stage.name}: {spent:.1f} s in {len(stage.cases)} cases; the stage took {stage.seconds:.1f} s")
    return lines
