"""When latency is back after an overload, and the times of a test that finds it out. Pure functions."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from vllm_ci.loadgen.metrics import percentile
from vllm_ci.performance import arrivals
from vllm_ci.performance.figures import least_requests
from vllm_ci.performance.measuring import Setting
from vllm_ci.performance.outcome import Outcome
from vllm_ci.performance.sample import Sample

BACK = 2.0
"""Latency is back when the median TTFT is at most twice that of the calm phase ..."""
SLACK_MS = 20.0
"""... or at most 20 ms above it, where it is so short that chance doubles it."""
WINDOW = least_requests(50)
"""Successive requests whose median counts."""
MOST_CALM_SHARE = 0.8
"""Of the capacity: a higher rate is not calm."""
_CALM_REQUESTS = 15
_PATIENCE = 2.0
"""How long the recovery is watched, in multiples of the time in which a queue of all excess requests would be worked off."""


def limit_ms(calm_ms: float) -> float:
    """Median TTFT at which latency is back, from that of the calm phase."""
    return max(BACK * calm_ms, calm_ms + SLACK_MS)


def ttft_ms(sample: Sample, outcome: Outcome) -> float:
    """TTFT of a request; infinite where it was not served."""
    return math.inf if outcome is not Outcome.SERVED or sample.ttft_ms is None else sample.ttft_ms


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Rates in requests per second, and times in seconds after the start.

    Attributes:
        calm_rate: Before and after the overload.
        overload_rate: During the overload.
        begin_s: The overload begins.
        end_s: It ends.
        last_s: The recovery is watched until then, or until latency is back.
    """

    calm_rate: float
    overload_rate: float
    begin_s: float
    end_s: float
    last_s: float

    @classmethod
    def of(cls, capacity: float, calm_rate: float, *, factor: float, duration_s: float) -> Plan:
        """A plan that lets even a server that queues everything recover."""
        begin_s = max(duration_s, _CALM_REQUESTS / calm_rate)
        excess_s = (factor - 1) * duration_s / (1 - min(calm_rate / capacity, MOST_CALM_SHARE))
        end_s = begin_s + duration_s
        last_s = end_s + max(_PATIENCE * excess_s, duration_s, 2 * WINDOW / calm_rate)
        return cls(calm_rate=calm_rate, overload_rate=factor * capacity, begin_s=begin_s, end_s=end_s, last_s=last_s)

    def times(self, setting: Setting) -> Iterator[float]:
        """When requests are due."""
        phases = [
            (0.0, self.begin_s, self.calm_rate),
            (self.begin_s, self.end_s, self.overload_rate),
            (self.end_s, self.last_s, self.calm_rate),
        ]
        return itertools.chain.from_iterable(
            (
                begin_s + at_s
                for at_s in arrivals.times(
                    setting.pattern,
                    rate,
                    seed=setting.seed + number,
                    duration_s=end_s - begin_s,
                    burstiness=setting.burstiness,
                )
            )
            for number, (begin_s, end_s, rate) in enumerate(phases)
        )


def back_at(requests: Sequence[tuple[float, float]], limit_ms: float, *, window: int = WINDOW) -> float | None:
    """When latency was back: due time of the first of ``window`` successive requests whose median is within the limit.

    The median of all requests from there on must be within it too, so that one good moment does not count.

    Args:
        requests: Due time in seconds and TTFT in ms, infinite for those that were not served; ascending by time.
        limit_ms: The limit.
        window: Number of requests.
    """
    good = list(itertools.accumulate((ttft_ms <= limit_ms for _, ttft_ms in requests), initial=0))
    for place in range(len(requests) - window + 1):
        rest = len(requests) - place
        if 2 * (good[place + window] - good[place]) > window and 2 * (good[-1] - good[place]) > rest:
            return requests[place][0]
    return None


@dataclass(kw_only=True)
class Recovery:
    """Follows a load as its requests end.

    Attributes:
        plan: Its times.
    """

    plan: Plan
    _calm: list[float] = field(default_factory=list)
    _after: list[tuple[float, float]] = field(default_factory=list)

    def add(self, sample: Sample, outcome: Outcome) -> None:
        """Count a request that has ended."""
        value = ttft_ms(sample, outcome)
        if sample.due_s >= self.plan.end_s:
            bisect.insort(self._after, (sample.due_s, value))
        elif sample.due_s < self.plan.begin_s and value < math.inf:
            self._calm.append(value)

    @property
    def limit_ms(self) -> float | None:
        """Median TTFT at which latency is back; ``None`` with too few calm requests."""
        return limit_ms(percentile(self._calm, 50)) if len(self._calm) >= WINDOW else None

    @property
    def back_s(self) -> float | None:
        """Seconds after the overload when latency was back; ``None`` if it is not, or unknown."""
        limit = self.limit_ms
        at_s = None if limit is None else back_at(self._after, limit)
        return None if at_s is None else at_s - self.plan.end_s
