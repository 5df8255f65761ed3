"""A short search for what a server can serve: the rate doubles until the answers no longer come as fast as the requests."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass

from vllm_ci.performance import arrivals
from vllm_ci.performance.arrivals import Pattern
from vllm_ci.performance.driven import Driver, Record
from vllm_ci.performance.outcome import Outcome

_GROWTH = 2.0
_TIMES = 3
_LEAST_REQUESTS = 20
_MOST_S = 60.0
_MOST_RATE = 5000.0
_SATURATED = 0.8
"""A server that answers less than this share of a constant rate has reached its capacity."""


@dataclass(frozen=True, kw_only=True)
class Try:
    """One rate of the search.

    Attributes:
        rate: Requests per second that were sent.
        served_per_s: Answers per second.
        served: Number of requests that were served.
        not_served: Number of requests that were not.
    """

    rate: float
    served_per_s: float
    served: int
    not_served: int

    @property
    def saturated(self) -> bool:
        """The server did not keep up."""
        return self.not_served > 0 or self.served_per_s < _SATURATED * self.rate


@dataclass(frozen=True, kw_only=True)
class Headroom:
    """What the search found.

    Attributes:
        tries: All rates that were tried, ascending.
        record: The load of the last one.
        client_too_slow: Why the client could not send the last one; empty if it could.
    """

    tries: tuple[Try, ...]
    record: Record
    client_too_slow: str = ""

    @property
    def capacity_per_s(self) -> float:
        """The most answers per second in any try."""
        return max(each.served_per_s for each in self.tries)

    @property
    def found(self) -> bool:
        """The capacity was reached."""
        return self.tries[-1].saturated and self.capacity_per_s > 0 and not self.client_too_slow


def search(driver: Driver, start: float, *, least_s: float, tell: Callable[[str], None]) -> Headroom:
    """Double the rate until the server does not keep up. Each try ends when all its requests have ended.

    Args:
        driver: Sends the loads.
        start: First rate in requests per second.
        least_s: Shortest try in seconds.
        tell: Called with a line for every try.
    """
    tries: list[Try] = []
    for number in itertools.count():
        rate = start * _GROWTH**number
        record = _sent(driver, rate, seconds=min(max(least_s, _LEAST_REQUESTS / rate), _MOST_S), seed=number)
        tries.append(_tried(record, rate))
        tell(f"{rate:8.3g} requests/s: {tries[-1].served_per_s:.3g}/s served, {tries[-1].not_served} not served")
        late = record.client_too_slow
        if tries[-1].saturated or late or record.interrupted or record.gone or rate * _GROWTH > _MOST_RATE:
            return Headroom(tries=tuple(tries), record=record, client_too_slow=late)
    raise AssertionError("the search has no end")


def _sent(driver: Driver, rate: float, *, seconds: float, seed: int) -> Record:
    """The load of one try; it is sent once more if the client was late, which a busy moment of this machine explains."""
    for again in range(_TIMES):
        setting = dataclasses.replace(driver.setting, rate=rate, seed=driver.setting.seed + _TIMES * seed + again)
        times = arrivals.times(Pattern.CONSTANT, rate, seed=setting.seed, duration_s=seconds)
        record = dataclasses.replace(driver, setting=setting).open_loop(times)
        if not record.client_too_slow or record.interrupted or record.gone:
            break
    return record


def _tried(record: Record, rate: float) -> Try:
    ends = sorted(sample.end_s for sample, outcome in record if outcome is Outcome.SERVED)
    served_per_s = speed(ends, rate)
    return Try(rate=rate, served_per_s=served_per_s, served=len(ends), not_served=len(record.samples) - len(ends))


def speed(ends: list[float], most: float) -> float:
    """Answers per second between the 10th and the 90th percentile of their ends, which a few long answers do not change.

    Args:
        ends: When answers ended, in seconds, ascending.
        most: The rate of their requests: answers cannot be faster for long.
    """
    if len(ends) < 2:
        return 0.0
    low, high = len(ends) // 10, len(ends) - 1 - len(ends) // 10
    return min((high - low) / max(ends[high] - ends[low], 1e-9), most) if high > low else 0.0
