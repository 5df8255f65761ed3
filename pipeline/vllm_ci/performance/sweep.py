"""Capacity: the highest request rate at which a server meets an objective, with the interval that the tries leave.

The rate grows by doubling until a try misses the objective, then the logarithm of the rate is bisected, and the tries at both
ends of the interval are repeated with other requests. An end that they contradict is moved outwards: the interval gets wider.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_ci.domain.report import Verdict
from vllm_ci.performance.figures import least_requests
from vllm_ci.performance.load import Load
from vllm_ci.performance.measuring import Measurement, Setting, measure
from vllm_ci.performance.sample import Sample, Samples
from vllm_ci.performance.server import Served

RESOLUTION = 1.1
"""The search ends when the first rate that missed is at most this many times the last one that met."""
_GROWTH = 2.0
_STEP = 1.25
"""By which an end that was contradicted is moved."""
RATES = (0.02, 5000.0)
"""The smallest and the largest rate that is tried."""
_LEAST_RATE, _MOST_RATE = RATES
_REPEATS = 1
LEAST_S = 10.0
"""Seconds of a step, at least."""
_MOST_S = 120.0
_QUEUE_GROWTH = 1.5
_QUEUE_SLACK = 3.0
"""A queue that holds more than 1.5 times as many requests, and 3 more, in the last quarter as in the second one is growing."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One try at one rate.

    Attributes:
        rate: Requests per second.
        met: The objective was met.
        why: Why it was not.
        good: Share of the requests that met it.
        measurement: What was measured.
    """

    rate: float
    met: bool
    why: str
    good: float
    measurement: Measurement

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "rate_per_s": self.rate,
            "met": self.met,
            "why": self.why,
            "good_share": round(self.good, 4),
            **self.measurement.document(),
        }


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """The result of a sweep.

    Attributes:
        steps: All tries, in the order in which they were made.
        share: Share of the requests that must meet the objective.
        low: Highest rate up to which every try met the objective; ``None`` if none did.
        high: Lowest rate from which on no try met it; ``None`` if every try met it.
        verdict: ``passed``: both ends are known; ``inconclusive``: one is not; ``errored``: the sweep ended early.
        reasons: Why it is not ``passed``.
    """

    steps: tuple[Step, ...]
    share: float
    low: float | None
    high: float | None
    verdict: Verdict
    reasons: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "verdict": str(self.verdict),
            "reasons": list(self.reasons),
            "good_share_wanted": self.share,
            "capacity_per_s": self.low,
            "interval_per_s": [self.low, self.high],
            "steps": [step.document() for step in self.steps],
        }


def edges(tries: Sequence[tuple[float, bool]]) -> tuple[float | None, float | None]:
    """The interval that tries leave: up to its lower end all met, from its upper end on none did.

    Args:
        tries: Rate and whether the objective was met, in any order.
    """
    met = {rate for rate, was_met in tries if was_met}
    missed = {rate for rate, was_met in tries if not was_met}
    low = max((rate for rate in met if not missed or rate < min(missed)), default=None)
    high = min((rate for rate in missed if not met or rate > max(met)), default=None)
    return low, high


def rates(start: float, *, resolution: float = RESOLUTION, repeats: int = _REPEATS) -> Generator[float, bool, None]:
    """Rates to try; each is answered (``send``) with whether the objective was met. A pure search.

    Args:
        start: First rate in requests per second.
        resolution: Where bisection ends, above 1.
        repeats: How often both ends are tried again.
    """
    rate, low, high = start, 0.0, math.inf
    while (not low or math.isinf(high)) and _LEAST_RATE <= rate <= _MOST_RATE:
        if (yield rate):
            low, rate = rate, rate * _GROWTH
        else:
            high, rate = rate, rate / _GROWTH
    if not low or math.isinf(high):
        return
    while high / low > resolution:
        middle = math.sqrt(low * high)
        if (yield middle):
            low = middle
        else:
            high = middle
    for _ in range(repeats):
        for end, wanted, factor in ((low, True, 1 / _STEP), (high, False, _STEP)):
            # An end that a second try contradicts is moved outwards until a try agrees.
            rate = end
            while (yield rate) is not wanted and _LEAST_RATE <= rate * factor <= _MOST_RATE:
                rate *= factor


def sweep(
    served: Served,
    setting: Setting,
    *,
    share: float = 0.9,
    start: float = 1.0,
    resolution: float = RESOLUTION,
    least_s: float = LEAST_S,
    tell: Callable[[Step], None] = lambda _step: None,
) -> Capacity:
    """Search for the capacity of a server.

    Each step sends at least as many requests as the percentile of ``share`` needs. It ends early when it can no longer meet the
    objective, and the next one starts when all answers have ended.

    Args:
        served: The server.
        setting: The workload, the objective, the pattern of arrivals and the seed; its rate and durations are not used.
        share: Share of the requests that must meet the objective: 0.9 for the 90th percentile.
        start: First rate in requests per second.
        resolution: Where the search ends.
        least_s: Shortest step in seconds.
        tell: Called after each step.

    Raises:
        ValueError: There is no objective, or ``share`` is not between 0 and 1.
    """
    if not setting.objective:
        raise ValueError("a sweep needs an objective")
    steps: list[Step] = []
    search = rates(start, resolution=resolution)
    rate: float | None = next(search)
    stopped = ""
    try:
        for number in itertools.count():
            if rate is None:
                break
            step = _step(served, dataclasses.replace(setting, rate=rate, seed=setting.seed + number), share, least_s)
            if step.measurement.interrupted:
                raise KeyboardInterrupt  # noqa: TRY301 - the same end as between two steps
            steps.append(step)
            tell(step)
            if stopped := _useless(step):
                break
            rate = _next(search, met=step.met)
    except KeyboardInterrupt:
        stopped = f"interrupted after {len(steps)} steps"
    return _capacity(steps, share, stopped)


def _next(search: Generator[float, bool, None], *, met: bool) -> float | None:
    try:
        return search.send(met)
    except StopIteration:
        return None


def _step(served: Served, setting: Setting, share: float, least_s: float) -> Step:
    count = least_requests(100 * share)
    duration_s = min(max(1.25 * count / setting.rate, least_s), _MOST_S)
    setting = dataclasses.replace(setting, duration_s=duration_s, warm_up_s=0.0)
    tally = _Tally(setting=setting, most_bad=(1 - share) * max(count, setting.rate * duration_s))
    found = measure(served, setting, watch=tally.watch)
    good = tally.good / max(tally.seen, 1)
    why = _missed(tally, found, good, share)
    return Step(rate=setting.rate, met=not why, why=why, good=good, measurement=found)


@dataclass(kw_only=True)
class _Tally:
    """Counts good requests while a step runs, and stops it when too many are not."""

    setting: Setting
    most_bad: float
    seen: int = 0
    good: int = 0
    samples: Samples | None = None
    stopped: bool = False

    def watch(self, load: Load) -> None:
        self.samples = load.samples
        for sample in load.samples.since(self.seen):
            self.seen += 1
            self.good += self.setting.objective.holds(sample)
        if self.seen - self.good > 2 * self.most_bad + 1:
            self.stopped = load.stop = True


def _missed(tally: _Tally, found: Measurement, good: float, share: float) -> str:
    if failed := sum(found.figures.failed.values()):
        return f"{failed} requests failed"
    if not tally.seen:
        return "no request ended"
    if good < share:
        return f"{good:.0%} of the requests meet the objective"
    if tally.samples is not None and growing(list(tally.samples), found.setting.duration_s):
        return "the number of waiting requests grew to the end"
    return ""


def growing(samples: Sequence[Sample], duration_s: float) -> bool:
    """Whether the number of running requests grew until the end: the server does not keep up.

    Args:
        samples: All requests of an open loop.
        duration_s: Time during which requests were sent.
    """

    def running(begin: float, end: float) -> float:
        return sum(max(0.0, min(each.end_s, end) - max(each.due_s, begin)) for each in samples) / (end - begin)

    early, late = running(0.25 * duration_s, 0.5 * duration_s), running(0.75 * duration_s, duration_s)
    return late > _QUEUE_GROWTH * early and late > early + _QUEUE_SLACK


def _useless(step: Step) -> str:
    """Why no further step helps; empty if it does.

    A client that was late at a rate that missed the objective does not end the search, because the next rate is lower. Servers
    on a GPU are fast enough that doubling their rate takes the client to its limit.
    """
    found = step.measurement
    if _lost(found):
        return "; ".join(found.reasons)
    return found.figures.client_too_slow if step.met else ""


def _lost(found: Measurement) -> bool:
    """Nothing was measured: the server is gone."""
    return found.verdict is Verdict.ERRORED and not found.figures.requests


def _late(steps: Sequence[Step], high: float | None) -> str:
    """Why a miss at the upper end says more about the client than about the server; empty if it does not."""
    return next(filter(None, (step.measurement.figures.client_too_slow for step in steps if step.rate == high)), "")


def _capacity(steps: Sequence[Step], share: float, stopped: str) -> Capacity:
    low, high = edges([(step.rate, step.met) for step in steps])
    verdicts, reasons = [Verdict.PASSED], []
    if stopped:
        last = steps[-1].measurement if steps else None
        late = last is not None and last.figures.client_too_slow and not _lost(last)
        verdicts.append(Verdict.INCONCLUSIVE if late else Verdict.ERRORED)
        reasons.append(stopped)
    elif low is None:
        verdicts.append(Verdict.INCONCLUSIVE)
        reasons.append("the lowest rate that was tried missed the objective: choose larger limits, or a shorter workload")
    elif high is None:
        verdicts.append(Verdict.INCONCLUSIVE)
        reasons.append("the highest rate that was tried met the objective: the capacity may be higher")
    if not stopped and (miss := _late(steps, high)):
        verdicts.append(Verdict.INCONCLUSIVE)
        reasons.append(f"at {high:.3g} requests/s, the lowest rate that missed the objective, {miss}")
    return Capacity(
        steps=tuple(steps), share=share, low=low, high=high, verdict=Verdict.worst(verdicts), reasons=tuple(reasons)
    )
