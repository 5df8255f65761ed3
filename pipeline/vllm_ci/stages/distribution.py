"""Metrics of a stage: the distributions of the values that its cases recorded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from vllm_ci.domain.report import Case


def distributions(cases: Iterable[Case]) -> dict[str, object]:
    """For every property with at least two values: count, minimum, maximum and nearest-rank percentiles.

    Only numbers and lists of numbers count; the unit is part of the property's name.
    """
    values: dict[str, list[float]] = {}
    for case in cases:
        for name, value in case.properties.items():
            values.setdefault(name, []).extend(_numbers(value))
    return {name: spread(numbers) for name, numbers in sorted(values.items()) if len(numbers) > 1}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Count, minimum, maximum, and 50th, 90th and 99th percentile (nearest rank)."""
    ordered = sorted(values)
    ranks = {"p50": 0.50, "p90": 0.90, "p99": 0.99}
    percentiles = {name: ordered[max(math.ceil(rank * len(ordered)), 1) - 1] for name, rank in ranks.items()}
    return {"count": len(ordered), "min": ordered[0], **percentiles, "max": ordered[-1]}


def _numbers(value: object) -> list[float]:
    candidates = value if isinstance(value, list | tuple) else [value]
    numbers = [each for each in candidates if isinstance(each, int | float) and not isinstance(each, bool)]
    return numbers if len(numbers) == len(candidates) else []
