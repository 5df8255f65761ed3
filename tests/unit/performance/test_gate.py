"""The gate on slowdowns: its decisions, and its error rates on simulated starts of servers."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_ci.performance import gate, student
from vllm_ci.performance.gate import Better, Decision, Limit


@pytest.mark.parametrize(
    ("probability", "freedom", "expected"),
    # Published tables (NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2).
    [(0.975, 1, 12.706), (0.975, 5, 2.571), (0.95, 11, 1.796), (0.99, 30, 2.457), (0.999, 5, 5.893), (0.95, 100, 1.660)],
)
def test_quantiles_are_those_of_published_tables(probability: float, freedom: int, expected: float) -> None:
    assert student.quantile(probability, freedom) == pytest.approx(expected, abs=6e-4)


@pytest.mark.slow
@given(st.floats(-50, 50), st.floats(0.6, 200))
def test_the_distribution_function_and_its_inverse_agree(t: float, freedom: float) -> None:
    probability = student.cdf(t, freedom)
    assert 0 <= probability <= 1
    assert student.cdf(-t, freedom) == pytest.approx(1 - probability, abs=1e-9)
    if 1e-6 < probability < 1 - 1e-6:
        assert student.quantile(probability, freedom) == pytest.approx(t, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("probability", [0, 1, -0.1, 2])
def test_a_probability_outside_of_its_range_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match="quantile"):
        student.quantile(probability, 5)


def judged(*values: float, margin: float = 0.05) -> gate.Judgement:
    return gate.judge({"ttft_ms": values}, [Limit(metric="ttft_ms", margin=margin)])


def test_a_clear_slowdown_fails_and_says_by_how_much() -> None:
    found = judged(*[math.log(1.2) + noise for noise in (0.01, -0.01, 0.02, -0.02, 0.0, 0.01)])
    assert found.decision is Decision.FAILED
    assert "ttft_ms: slower by +20" in found.reasons[0]


def test_no_slowdown_passes() -> None:
    assert judged(0.01, -0.01, 0.005, -0.005, 0.0, 0.002).decision is Decision.PASSED


def test_a_faster_candidate_passes() -> None:
    assert judged(-0.3, -0.2, -0.25, -0.22, -0.3, -0.28).decision is Decision.PASSED


def test_a_slowdown_below_the_margin_does_not_fail_however_sure_it_is() -> None:
    assert judged(*[math.log(1.03)] * 6).decision is Decision.PASSED


def test_noise_asks_for_more_pairs_and_then_is_inconclusive() -> None:
    few = (0.2, -0.2, 0.15, -0.1, 0.1, -0.1)
    assert judged(*few).decision is Decision.MORE
    assert judged(*few, *few).decision is Decision.INCONCLUSIVE


def test_a_higher_rate_is_no_slowdown() -> None:
    limit = Limit(metric="tokens_per_s", better=Better.HIGHER)
    assert limit.slowdown(100, 120) < 0 < limit.slowdown(100, 80)


@pytest.mark.parametrize("pair", [(0, 1), (1, 0), (-1, 1), (math.nan, 1), (1, math.inf)])
def test_values_without_a_ratio_are_refused(pair: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="no ratio"):
        Limit(metric="ttft_ms").slowdown(*pair)


def test_metrics_with_different_numbers_of_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="same number"):
        gate.judge({"a": [0.0] * 6, "b": [0.0] * 5}, [Limit(metric="a"), Limit(metric="b")])


def test_one_of_several_metrics_that_is_slower_fails_alone() -> None:
    slow = [math.log(1.3) + noise for noise in (0.01, -0.01, 0.02, -0.02, 0.0, 0.01)]
    limits = [Limit(metric=name) for name in ("a", "b", "c")]
    found = gate.judge({"a": [0.0, 0.01, -0.01] * 2, "b": slow, "c": [0.0, 0.01, -0.01] * 2}, limits)
    assert [each.decision for each in found.estimates] == [Decision.PASSED, Decision.FAILED, Decision.PASSED]
    assert found.decision is Decision.FAILED


def simulated(rng: random.Random, sd: float, effect: float, metrics: int = 3) -> Decision:
    """A comparison of two servers whose starts differ by chance; metrics of a start are correlated."""
    limits = [Limit(metric=f"m{number}") for number in range(metrics)]
    data: dict[str, list[float]] = {limit.metric: [] for limit in limits}
    while True:
        look = gate.next_look(len(data["m0"]))
        assert look is not None
        while len(data["m0"]) < look:
            common = rng.gauss(0, 1)
            for limit in limits:
                start = sd * (math.sqrt(0.6) * common + math.sqrt(0.4) * rng.gauss(0, 1))
                rounds = [effect + start + rng.gauss(0, 0.03) for _ in range(3)]
                data[limit.metric].append(gate.pair_value(rounds))
        decision = gate.judge(data, limits).decision
        if decision is not Decision.MORE:
            return decision


@pytest.mark.slow
@pytest.mark.parametrize("sd", [0.05, 0.09])
def test_error_rates_are_those_that_are_promised(sd: float) -> None:
    """A smaller run of ``benchmarks/gate.py``; bounds leave room for chance (four standard errors)."""
    rng, runs = random.Random(11), 200
    equal = statistics.fmean(simulated(rng, sd, 0.0) is Decision.FAILED for _ in range(runs))
    slower = statistics.fmean(simulated(rng, sd, math.log(1.1)) is Decision.FAILED for _ in range(runs))
    assert equal <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / runs)
    assert slower >= 0.90 - 4 * math.sqrt(0.9 * 0.1 / runs)
