"""Pairs of fresh starts, and what follows from them: ratios, equal counters, equal work. Pure functions."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vllm_ci.domain.performance import PerformanceSpec
from vllm_ci.domain.report import Verdict
from vllm_ci.performance.gate import Better, Limit, pair_value
from vllm_ci.performance.rounds import METRICS, TOKENS, Round

_HIGHER = ("output_tokens_per_s",)
_IMPROVES = {"prefix_cache_hits": 1, "preemptions": -1}
"""Counters whose change in this direction is an improvement. A change of any other one is a change of behaviour."""


class Arm(enum.StrEnum):
    """A side of the comparison."""

    BASELINE = "baseline"
    CANDIDATE = "candidate"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A start of each server, one soon after the other.

    Attributes:
        order: Which was started first.
        rounds: Rounds by server; round N of both were asked the same.
        ready_s: Seconds to the first completion, by server.
    """

    order: tuple[Arm, ...]
    rounds: Mapping[Arm, tuple[Round, ...]]
    ready_s: Mapping[Arm, float]

    def usable(self) -> Iterator[tuple[Round, Round]]:
        """Rounds (of baseline, of candidate) that can both be trusted."""
        for both in zip(self.rounds[Arm.BASELINE], self.rounds[Arm.CANDIDATE], strict=False):
            if all(each.verdict is Verdict.PASSED for each in both):
                yield both

    def log_ratios(self, limit: Limit) -> list[float]:
        """How much slower the candidate is, for each usable round."""
        name = limit.metric
        return [
            limit.slowdown(baseline.values[name], candidate.values[name])
            for baseline, candidate in self.usable()
            if name in baseline.values and name in candidate.values
        ]

    def document(self, limits: Sequence[Limit]) -> dict[str, object]:
        """As JSON, with the log ratio of every round."""
        return {
            "order": [str(arm) for arm in self.order],
            "ready_s": {str(arm): round(value, 3) for arm, value in self.ready_s.items()},
            "rounds": {str(arm): [each.document() for each in rounds] for arm, rounds in self.rounds.items()},
            "log_ratios": {limit.metric: self.log_ratios(limit) for limit in limits},
        }


def limits(spec: PerformanceSpec) -> tuple[Limit, ...]:
    """The limits that a configuration asks for."""
    return tuple(
        Limit(metric=name, better=Better.HIGHER if name in _HIGHER else Better.LOWER, margin=spec.margins[name])
        for name in METRICS
        if name in spec.margins
    )


def values(pairs: Sequence[Pair], wanted: Sequence[Limit]) -> dict[str, list[float]]:
    """Values of all pairs, by metric.

    Raises:
        ValueError: A pair has no usable round.
    """
    return {limit.metric: [pair_value(pair.log_ratios(limit)) for pair in pairs] for limit in wanted}


def unequal_work(pair: Pair) -> str:
    """Why the two servers of a pair did not do the same work; empty if they did.

    Answers are compared only if those of the baseline have the requested lengths: otherwise their lengths depend on what the
    model says, which differs between two runs of one server.
    """
    rounds = zip(pair.rounds[Arm.BASELINE], pair.rounds[Arm.CANDIDATE], strict=False)
    for number, (baseline, candidate) in enumerate(rounds, 1):
        for name in TOKENS:
            if name not in baseline.counters or name not in candidate.counters:
                continue
            expected, found = baseline.counters[name], candidate.counters[name]
            if found != expected and (name == "prompt_tokens" or not baseline.short_answers):
                what = name.replace("_", " ")
                both = f"{found:.0f} {what} of the candidate, {expected:.0f} of the baseline"
                return f"round {number}: {both}, for the same requests"
    return ""


@dataclass(frozen=True, kw_only=True)
class Counter:
    """A counter of one round, in all starts.

    Attributes:
        name: Its name, with the number of the round.
        baseline: Its value in all starts of the baseline.
        candidate: Its value in all starts of the candidate.
        worse: They differ, and that is not an improvement.
    """

    name: str
    baseline: float
    candidate: float
    worse: bool

    def __str__(self) -> str:
        candidate = f"{self.candidate:.0f} in every start of the candidate"
        return f"{self.name}: {candidate}, {self.baseline:.0f} in every one of the baseline"


def counters(pairs: Sequence[Pair]) -> list[Counter]:
    """Counters without noise: those that are the same in all starts of the baseline, and in all of the candidate.

    One pair shows nothing, because chance could have made the difference: at least two are needed.
    """
    if len(pairs) < 2:
        return []
    found = []
    for number in range(min(len(rounds) for pair in pairs for rounds in pair.rounds.values())):
        names = dict.fromkeys(name for pair in pairs for name in pair.rounds[Arm.BASELINE][number].counters)
        for name in names:
            seen = {arm: {pair.rounds[arm][number].counters.get(name) for pair in pairs} for arm in Arm}
            if any(len(each) > 1 or None in each for each in seen.values()):
                continue
            (baseline,), (candidate,) = (tuple(value for value in seen[arm] if value is not None) for arm in Arm)
            better = (candidate - baseline) * _IMPROVES.get(name, 0) > 0
            worse = candidate != baseline and not better
            found.append(Counter(name=f"{name}, round {number + 1}", baseline=baseline, candidate=candidate, worse=worse))
    return found
