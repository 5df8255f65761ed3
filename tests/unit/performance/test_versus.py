"""Two servers compared in rounds: ratios, their interval, and what a comparison of one server with itself says."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles.running import running
from doubles.server import Double
from vllm_ci.domain.report import Verdict
from vllm_ci.performance.gate import Better
from vllm_ci.performance.measuring import Setting
from vllm_ci.performance.server import served
from vllm_ci.performance.versus import compare, false_alarms, interval, ratio_of
from vllm_ci.performance.workload import Lengths, Workload

pytestmark = pytest.mark.slow

SMALL = Workload(
    name="small",
    version=1,
    source="a test",
    prompt=Lengths(median=8, mean=9, largest=16),
    output=Lengths(median=8, mean=9, largest=12),
)


class Quick(Double):
    token_s = 0.004


class Slow(Double):
    token_s = 0.008


def test_a_server_that_takes_twice_as_long_for_a_token_is_seen_and_fails_nothing() -> None:
    with running(Quick) as (one, _), running(Slow) as (other, _):
        setting = Setting(workload=SMALL, concurrency=4, duration_s=6, warm_up_s=0.3)
        found = compare(served(one), served(other), setting, rounds=4)
    ratios = {ratio.metric: ratio for ratio in found.ratios}
    tpot = ratios["tpot_ms_p50"]
    assert tpot.ratio is not None, found.reasons
    assert 1.4 < tpot.ratio < 2.3
    assert tpot.differs
    assert ratios["output_tokens_per_s"].ratio is not None
    # How many come in a second depends on what else the machine does; that two are not told apart may happen, the opposite not.
    assert ratios["output_tokens_per_s"].low is not None
    assert ratios["output_tokens_per_s"].low < 0.8
    assert found.verdict is not Verdict.FAILED, "a slower server is no failure"
    document = found.document()
    assert "one start each" in document["caveat"]
    assert document["prompts"] == "the same in both arms"
    assert set(found.first) <= {"a", "b"}
    prompts = [[each.setting.seed for each in pair] for pair in found.measurements]
    assert all(a == b for a, b in prompts)
    assert len({a for a, _ in prompts}) == 4


def test_one_server_compared_with_itself_gets_other_prompts_in_each_arm() -> None:
    with running(Quick) as (url, _):
        server = served(url)
        found = compare(server, server, Setting(workload=SMALL, concurrency=4, duration_s=4, warm_up_s=0), rounds=3, same=True)
    assert all(a.setting.seed != b.setting.seed for a, b in found.measurements)
    assert all(ratio.false_alarms is not None and 0 <= ratio.false_alarms <= 0.5 for ratio in found.ratios), found.reasons


def test_rounds_that_are_too_short_for_a_median_are_said() -> None:
    with running(Slow) as (url, _):
        server = served(url)
        found = compare(
            server, server, Setting(workload=SMALL, concurrency=1, duration_s=0.6, warm_up_s=0), rounds=3, same=True
        )
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "raise --duration" in " ".join(found.reasons)


def test_values_that_are_missing_in_a_round_leave_the_round_out() -> None:
    found = ratio_of("x", Better.LOWER, [(1.0, 1.1), (None, 2.0), (2.0, 0.0), (1.0, 1.1), (1.0, 1.1)])
    assert len(found.rounds) == 3
    assert found.ratio == pytest.approx(1.1)
    assert ratio_of("x", Better.LOWER, [(1.0, 1.1)]).ratio is None


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9))
def test_the_interval_contains_its_mean_and_exchanging_the_arms_mirrors_it(values: list[float]) -> None:
    low, high = interval(values)
    assert low - 1e-12 <= math.fsum(values) / len(values) <= high + 1e-12
    assert interval([-value for value in values]) == pytest.approx((-high, -low))


def test_the_expected_share_of_false_alarms_is_about_five_percent_for_normal_rounds() -> None:
    rng = random.Random(3)
    shares = [false_alarms([rng.gauss(0, 0.05) for _ in range(8)]) for _ in range(60)]
    assert 0.03 < sum(shares) / len(shares) < 0.07
