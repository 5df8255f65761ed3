"""Growth over time: a robust slope with its interval. Pure functions."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEAST = 8
"""Blocks below which no slope is given."""
_BLOCKS = 30


@dataclass(frozen=True, kw_only=True)
class Trend:
    """A slope by Theil and Sen (Sen 1968), with the 95 % interval from Kendall's statistic.

    Attributes:
        per_hour: Median of the slopes of all pairs of points, in units of the value per hour.
        low: Lower bound.
        high: Upper bound.
        seconds: Time between the first and the last point.
    """

    per_hour: float
    low: float
    high: float
    seconds: float

    @property
    def grows(self) -> bool:
        """The interval is above 0."""
        return self.low > 0


def trend(points: Sequence[tuple[float, float]], *, blocks: int = _BLOCKS) -> Trend | None:
    """The trend of values over seconds; ``None`` with too few of them.

    Neighbouring values depend on one another, which would make the interval too narrow: it is taken over medians of blocks of
    equal length.

    Args:
        points: Seconds and value, in any order.
        blocks: Largest number of blocks.
    """
    found = _medians(sorted(points), blocks)
    if len(found) < LEAST:
        return None
    slopes = sorted((b[1] - a[1]) / (b[0] - a[0]) * 3600 for a, b in itertools.combinations(found, 2))
    count = len(found)
    half = statistics.NormalDist().inv_cdf(0.975) * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    first = max(math.floor((len(slopes) - half) / 2), 0)
    last = min(math.ceil((len(slopes) + half) / 2), len(slopes) - 1)
    return Trend(per_hour=statistics.median(slopes), low=slopes[first], high=slopes[last], seconds=found[-1][0] - found[0][0])


def _medians(points: Sequence[tuple[float, float]], blocks: int) -> list[tuple[float, float]]:
    """The median time and value of each block that has values."""
    if len(points) < 2 or points[-1][0] <= points[0][0]:
        return []
    begin, width = points[0][0], (points[-1][0] - points[0][0]) / blocks
    grouped = itertools.groupby(points, key=lambda point: min(int((point[0] - begin) / width), blocks - 1))
    lists = [list(group) for _, group in grouped]
    return [(statistics.median(at for at, _ in block), statistics.median(value for _, value in block)) for block in lists]
