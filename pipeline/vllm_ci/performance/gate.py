"""Decide whether a candidate is slower than its baseline, with known error rates. Pure functions.

The replicate is a *pair of fresh starts*, one of each server: two starts of the same server differ by 5 to 9 % (standard
deviation of the log ratio, measured), and requests to one start tell nothing about that. Within a pair, rounds are interleaved,
and the median of their log ratios is the pair's value. Over pairs, the mean and a t interval are taken; several metrics are
judged together by Holm's method (1979), and several looks at a growing number of pairs share the error rate (Bonferroni), so
that at most a share ``alpha`` of all comparisons of equal servers fails.
"""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vllm_ci.performance import student

LOOKS = (6, 9, 12)
"""Numbers of pairs after which the data is judged."""


class Decision(enum.StrEnum):
    """What to do after some pairs."""

    PASSED = "passed"
    FAILED = "failed"
    MORE = "more"
    INCONCLUSIVE = "inconclusive"


class Better(enum.StrEnum):
    """Direction of a metric."""

    LOWER = "lower"
    HIGHER = "higher"


@dataclass(frozen=True, kw_only=True)
class Limit:
    """How much slower a candidate may be in one metric.

    Attributes:
        metric: Name of the metric (unit in the name).
        better: Whether lower or higher values are better.
        margin: Slowdown that is tolerated, as a share (0.05 is 5 %): a candidate passes when its slowdown is surely below it,
            and fails only with an estimate above it.
        threshold: A candidate fails only when its slowdown is surely above this share.
    """

    metric: str
    better: Better = Better.LOWER
    margin: float = 0.05
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= self.margin:
            raise ValueError(f"{self.metric}: 0 <= threshold <= margin, not {self.threshold} and {self.margin}")

    def slowdown(self, baseline: float, candidate: float) -> float:
        """Log of how much slower the candidate is; above 0 if it is slower.

        Raises:
            ValueError: A value is not positive, so there is no ratio.
        """
        if not (baseline > 0 and candidate > 0 and math.isfinite(baseline) and math.isfinite(candidate)):
            raise ValueError(f"{self.metric}: no ratio of {baseline} and {candidate}")
        ratio = math.log(candidate / baseline)
        return ratio if self.better is Better.LOWER else -ratio


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The slowdown in one metric over all pairs; shares, so 0.1 means 10 % slower.

    Attributes:
        metric: Name of the metric.
        pairs: Number of pairs.
        slowdown: Estimate.
        low: Lower bound of the one-sided interval.
        high: Upper bound of the one-sided interval.
        p: Probability of such an estimate or a larger one, if the slowdown is at the threshold.
        decision: ``failed``, ``passed``, or ``more``.
        spread: Standard deviation of the log ratios of the pairs.
    """

    metric: str
    pairs: int
    slowdown: float
    low: float
    high: float
    p: float
    decision: Decision
    spread: float


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The decision, and what it rests on.

    Attributes:
        decision: ``failed`` if any metric failed, ``passed`` if all passed, ``more`` or ``inconclusive`` otherwise.
        estimates: One for each metric, in the order of the limits.
        reasons: Why it is not ``passed``, a line for each metric.
    """

    decision: Decision
    estimates: tuple[Estimate, ...]
    reasons: tuple[str, ...] = field(default=())


def pair_value(rounds: Sequence[float]) -> float:
    """The log ratio of a pair: the median over its rounds, which one disturbed round does not move.

    Raises:
        ValueError: There are no rounds.
    """
    if not rounds:
        raise ValueError("a pair has no rounds")
    return statistics.median(rounds)


def judge(
    pairs: Mapping[str, Sequence[float]], limits: Sequence[Limit], *, alpha: float = 0.05, looks: Sequence[int] = LOOKS
) -> Judgement:
    """Judge the log ratios of all pairs so far.

    Args:
        pairs: Log ratios by metric, one for each pair (:meth:`Limit.slowdown`, :func:`pair_value`).
        limits: Metrics to judge.
        alpha: Share of comparisons of equal servers that may fail.
        looks: Numbers of pairs after which the data is judged; the last one is the maximum.

    Raises:
        ValueError: There is no metric, or a metric has fewer than two pairs or a different number of pairs than others.
    """
    counts = {len(pairs[limit.metric]) for limit in limits}
    if len(counts) != 1 or min(counts) < 2:
        raise ValueError(f"every metric needs the same number of pairs, at least 2, not {sorted(counts)}")
    (count,) = counts
    each = alpha / max(len(looks), 1)
    raw = [_estimate(limit, pairs[limit.metric], each) for limit in limits]
    rejected = _holm([estimate.p for estimate in raw], each)
    estimates = tuple(_decided(limit, estimate, surely) for limit, estimate, surely in zip(limits, raw, rejected, strict=True))
    decisions = {estimate.decision for estimate in estimates}
    if Decision.FAILED in decisions:
        decision = Decision.FAILED
    elif decisions == {Decision.PASSED}:
        decision = Decision.PASSED
    else:
        decision = Decision.MORE if count < max(looks) else Decision.INCONCLUSIVE
    reasons = tuple(_reason(limit, each) for limit, each in zip(limits, estimates, strict=True) if each.decision is not _PASSED)
    return Judgement(decision=decision, estimates=estimates, reasons=reasons)


_PASSED = Decision.PASSED


def next_look(count: int, looks: Sequence[int] = LOOKS) -> int | None:
    """Number of pairs at the next look; ``None`` after the last one."""
    return next((look for look in sorted(looks) if look > count), None)


def _estimate(limit: Limit, values: Sequence[float], alpha: float) -> Estimate:
    count = len(values)
    mean, spread = statistics.fmean(values), statistics.stdev(values)
    error = max(spread, 1e-12) / math.sqrt(count)
    width = student.quantile(1 - alpha, count - 1) * error
    above = (mean - math.log1p(limit.threshold)) / error
    return Estimate(
        metric=limit.metric,
        pairs=count,
        slowdown=math.expm1(mean),
        low=math.expm1(mean - width),
        high=math.expm1(mean + width),
        p=1 - student.cdf(above, count - 1),
        decision=Decision.MORE,
        spread=spread,
    )


def _holm(ps: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses are rejected, with at most a share ``alpha`` of families with any false rejection."""
    rejected = [False] * len(ps)
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda place: ps[place])):
        if ps[place] > alpha / (len(ps) - rank):
            break
        rejected[place] = True
    return rejected


def _decided(limit: Limit, estimate: Estimate, surely: bool) -> Estimate:
    decision = Decision.MORE
    if surely and estimate.slowdown > limit.margin:
        decision = Decision.FAILED
    elif estimate.high < limit.margin:
        decision = Decision.PASSED
    return Estimate(**{**vars(estimate), "decision": decision})


def _reason(limit: Limit, estimate: Estimate) -> str:
    interval = f"{estimate.slowdown:+.1%} ({estimate.low:+.1%} to {estimate.high:+.1%}, {estimate.pairs} pairs)"
    if estimate.decision is Decision.FAILED:
        return f"{limit.metric}: slower by {interval}; up to {limit.margin:.0%} is tolerated"
    return f"{limit.metric}: {interval} is neither surely below nor surely above {limit.margin:.0%}"
