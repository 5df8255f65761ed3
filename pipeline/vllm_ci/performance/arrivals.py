"""When requests are sent: open loops, whose times do not depend on the server. Pure functions.

In an open loop a slow server does not slow the client down, so waiting is measured from the time at which a request was due
("coordinated omission" otherwise).
"""

from __future__ import annotations

import enum
import random
from collections.abc import Iterator

from vllm_ci.performance.seeds import seeded


class Pattern(enum.StrEnum):
    """Distribution of the gaps between requests."""

    CONSTANT = "constant"
    POISSON = "poisson"
    GAMMA = "gamma"


def times(pattern: Pattern, rate: float, *, seed: int, duration_s: float, burstiness: float = 1.0) -> Iterator[float]:
    """Seconds after the start at which requests are due, in ascending order.

    Args:
        pattern: Distribution of the gaps; all have a mean of ``1 / rate``.
        rate: Requests per second.
        seed: The same seed gives the same times.
        duration_s: No request is due after this many seconds.
        burstiness: Shape of the gamma distribution: 1 is Poisson, less is burstier, as in ``vllm bench serve``.

    Raises:
        ValueError: ``rate``, ``duration_s`` or ``burstiness`` is not positive.
    """
    if not (rate > 0 and duration_s > 0 and burstiness > 0):
        raise ValueError(f"rate {rate}, duration {duration_s} and burstiness {burstiness} must be positive")
    return _times(pattern, rate, seeded("arrivals", seed), duration_s, burstiness)


def _times(pattern: Pattern, rate: float, rng: random.Random, duration_s: float, burstiness: float) -> Iterator[float]:
    now, count = 0.0, 0
    while now < duration_s:
        yield now
        count += 1
        if pattern is Pattern.CONSTANT:
            now = count / rate  # no sum of rounding errors
        elif pattern is Pattern.GAMMA:
            now += rng.gammavariate(burstiness, 1 / (rate * burstiness))
        else:
            now += rng.expovariate(rate)
