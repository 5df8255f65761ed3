"""Error rates of the gate on slowdowns, on simulated starts of servers, beside those of a naive comparison.

    python benchmarks/gate.py [RUNS]

Starts of one server differ by chance (standard deviation of the log ratio: 0.05 to 0.09, measured); rounds within a start are
correlated. Printed are the share of comparisons that fail for equal servers (false alarms; bound 5 %) and for a candidate that
is 10 % slower (power; bound 90 %), and what one run against one run would have said with a limit of 5 %. Exit code 1 if a bound
is missed.
"""

from __future__ import annotations

import json
import math
import random
import sys

from vllm_ci.performance import gate
from vllm_ci.performance.gate import Decision, Limit

METRICS = 3
ROUNDS = 3
ROUND_SD = 0.03
SHARED = 0.6
"""Share of the variance between starts that the metrics of one start have in common."""


def starts(rng: random.Random, sd: float, effect: float) -> list[list[float]]:
    """Log ratios of the rounds of one pair, by metric."""
    common = rng.gauss(0, 1)
    offsets = [sd * (math.sqrt(SHARED) * common + math.sqrt(1 - SHARED) * rng.gauss(0, 1)) for _ in range(METRICS)]
    return [[effect + offset + rng.gauss(0, ROUND_SD) for _ in range(ROUNDS)] for offset in offsets]


def compared(rng: random.Random, sd: float, effect: float) -> tuple[Decision, int, bool]:
    """Decision, number of pairs, and whether the first round alone would have failed."""
    limits = [Limit(metric=f"m{number}") for number in range(METRICS)]
    data: dict[str, list[float]] = {limit.metric: [] for limit in limits}
    naive: bool | None = None
    count = 0
    while True:
        look = gate.next_look(count)
        assert look is not None
        for _ in range(look - count):
            rounds = starts(rng, sd, effect)
            naive = any(each[0] > math.log1p(limits[0].margin) for each in rounds) if naive is None else naive
            for limit, each in zip(limits, rounds, strict=True):
                data[limit.metric].append(gate.pair_value(each))
        count = look
        decision = gate.judge(data, limits).decision
        if decision is not Decision.MORE:
            return decision, count, bool(naive)


def main(runs: int) -> int:
    """Simulate and print."""
    missed = False
    for sd in (0.05, 0.07, 0.09):
        for slowdown in (0.0, 0.1):
            rng = random.Random(f"{sd}:{slowdown}")
            found = [compared(rng, sd, math.log1p(slowdown)) for _ in range(runs)]
            share = {str(each): sum(decision is each for decision, _, _ in found) / runs for each in Decision}
            failed = share[str(Decision.FAILED)]
            missed = missed or (failed > 0.05 if not slowdown else failed < 0.9)
            naive = sum(each for _, _, each in found) / runs
            pairs = sum(count for _, count, _ in found) / runs
            row = {"sd": sd, "slowdown": slowdown, "pairs": round(pairs, 1), "naive_failed": round(naive, 3), **share}
            sys.stdout.write(json.dumps(row) + "\n")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
