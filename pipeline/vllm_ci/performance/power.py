"""What a comparison can find, given the noise between starts: by simulation of the same decisions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from vllm_ci.performance import gate
from vllm_ci.performance.gate import Decision, Limit
from vllm_ci.performance.seeds import seeded

_RUNS = 400


def shares(
    spread: Mapping[str, float], limits: Sequence[Limit], looks: Sequence[int], *, slowdown: float, runs: int = _RUNS
) -> dict[Decision, float]:
    """Shares of comparisons that pass, fail or stay inconclusive for a candidate that is slower in every metric.

    Args:
        spread: Standard deviation of the log ratio of a pair, by metric.
        limits: What is compared.
        looks: Numbers of pairs after which the data is judged.
        slowdown: Slowdown of the candidate, as a share.
        runs: Number of simulated comparisons.
    """
    rng = seeded("power", slowdown)
    effect = math.log1p(slowdown)
    found = dict.fromkeys((Decision.PASSED, Decision.FAILED, Decision.INCONCLUSIVE), 0.0)
    for _ in range(runs):
        data: dict[str, list[float]] = {limit.metric: [] for limit in limits}
        decision = Decision.MORE
        for look in looks:
            for name, values in data.items():
                values += [rng.gauss(effect, spread[name]) for _ in range(look - len(values))]
            decision = gate.judge(data, limits, looks=looks).decision
            if decision is not Decision.MORE:
                break
        found[decision] += 1 / runs
    return found
