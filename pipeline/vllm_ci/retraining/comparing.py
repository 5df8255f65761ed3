"""Two models on the same rows: accuracy and loss with intervals, and whether a difference can be chance. Pure functions.

Rows are paired: both models answered the same questions, so only rows that one of them got right and the other wrong say
something about their accuracy (McNemar), and resampling takes rows, not answers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

_RESAMPLES = 2000
_MOST_DRAWS = 4_000_000
_FEWEST_RESAMPLES = 500


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and the interval that it lies in.

    Attributes:
        value: As measured.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What held-out rows say about challenger and champion.

    Attributes:
        rows: How many there are.
        champion: Accuracy of the champion (Wilson's interval).
        challenger: Accuracy of the challenger.
        gain: Accuracy of the challenger less that of the champion (bootstrap over rows).
        won: Rows that only the challenger got right.
        lost: Rows that only the champion got right.
        p_better: Probability of so many rows won, or more, if both were equally good (McNemar, exact, one-sided).
        loss_change: Mean loss of the challenger less that of the champion, per token of the answer; ``None`` if it is
            not measured, or not a number in a row.
        confidence: Of all intervals.
    """

    rows: int
    champion: Estimate
    challenger: Estimate
    gain: Estimate
    won: int
    lost: int
    p_better: float
    loss_change: Estimate | None
    confidence: float


def compare(
    champion: Sequence[bool],
    challenger: Sequence[bool],
    *,
    champion_loss: Sequence[float] = (),
    challenger_loss: Sequence[float] = (),
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare two models that answered the same rows.

    Args:
        champion: For each row, whether the champion's answer was right.
        challenger: The same for the challenger, in the same order.
        champion_loss: Loss of the expected answer in each row; empty if not measured.
        challenger_loss: The same for the challenger.
        confidence: Of the intervals.
        seed: Of the resampling.

    Raises:
        ValueError: The rows are not the same ones, or there are none.
    """
    if not champion or len(champion) != len(challenger) or len(champion_loss) != len(challenger_loss):
        raise ValueError("both models have to be measured on the same rows, at least one")
    pairs = list(zip(champion, challenger, strict=True))
    won, lost = sum(b and not a for a, b in pairs), sum(a and not b for a, b in pairs)
    losses = [after - before for before, after in zip(champion_loss, challenger_loss, strict=True)]
    return Comparison(
        rows=len(pairs),
        champion=wilson(sum(champion), len(pairs), confidence),
        challenger=wilson(sum(challenger), len(pairs), confidence),
        gain=bootstrap([float(b) - float(a) for a, b in pairs], confidence, seed),
        won=won,
        lost=lost,
        p_better=mcnemar(won, lost),
        loss_change=bootstrap(losses, confidence, seed) if losses and all(map(math.isfinite, losses)) else None,
        confidence=confidence,
    )


def mcnemar(won: int, lost: int) -> float:
    """Probability that at least ``won`` of the rows that differ are won, if each is as likely lost; 1 when none differ."""
    count = won + lost
    ways, term = 0, math.comb(count, won)
    for each in range(won, count + 1):
        ways += term
        term = term * (count - each) // (each + 1)
    return float(ways / 2**count)


def wilson(right: int, rows: int, confidence: float) -> Estimate:
    """A share and Wilson's score interval, which is sound for few rows and for shares near 0 and 1."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, square = right / rows, z * z / rows
    middle = (share + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(share * (1 - share) / rows + square / (4 * rows))
    return Estimate(value=share, low=max(middle - half, 0.0), high=min(middle + half, 1.0))


def bootstrap(values: Sequence[float], confidence: float, seed: int) -> Estimate:
    """Mean of values and its interval: percentiles of the means of resampled rows; the same seed gives the same interval."""
    count = len(values)
    resamples = max(_FEWEST_RESAMPLES, min(_RESAMPLES, _MOST_DRAWS // count))
    draw = random.Random(seed)  # noqa: S311 - a resampling, no secret
    means = sorted(fmean(draw.choices(values, k=count)) for _ in range(resamples))
    outside = (1 - confidence) / 2
    low, high = means[math.floor(outside * (resamples - 1))], means[math.ceil((1 - outside) * (resamples - 1))]
    return Estimate(value=fmean(values), low=low, high=high)
