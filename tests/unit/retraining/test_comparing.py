"""The statistics, against values that can be computed by hand or by enumeration."""

from __future__ import annotations

import itertools
import math
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_ci.retraining.blessing import BlessingPolicy, bless
from vllm_ci.retraining.comparing import Comparison, bootstrap, compare, mcnemar, wilson


def rows(won: int, lost: int, both: int = 0, neither: int = 0) -> tuple[list[bool], list[bool]]:
    pairs = [(False, True)] * won + [(True, False)] * lost + [(True, True)] * both + [(False, False)] * neither
    return [a for a, _ in pairs], [b for _, b in pairs]


def measured(won: int, lost: int, both: int = 0, neither: int = 0, *, loss: float = -0.5) -> Comparison:
    champion, challenger = rows(won, lost, both, neither)
    count = len(champion)
    noise = [0.01 * (index % 7) for index in range(count)]
    before = [1.0 + each for each in noise]
    after = [1.0 + loss + each for each in reversed(noise)]
    return compare(champion, challenger, champion_loss=before, challenger_loss=after)


@given(won=st.integers(0, 6), lost=st.integers(0, 6))
@settings(max_examples=30)
def test_mcnemar_is_the_share_of_all_outcomes_that_are_as_good_or_better(won: int, lost: int) -> None:
    outcomes = list(itertools.product((0, 1), repeat=won + lost))
    expected = sum(sum(each) >= won for each in outcomes) / len(outcomes)
    assert mcnemar(won, lost) == pytest.approx(expected)


@pytest.mark.parametrize(("won", "lost", "p"), [(0, 0, 1.0), (5, 0, 1 / 32), (8, 2, 56 / 1024), (0, 4, 1.0)])
def test_mcnemar_gives_known_values(won: int, lost: int, p: float) -> None:
    assert mcnemar(won, lost) == pytest.approx(p)


@pytest.mark.slow
def test_mcnemar_of_many_rows_is_exact() -> None:
    assert 0 < mcnemar(3000, 1000) < 1e-200


def test_mcnemar_of_very_many_rows_takes_no_time() -> None:
    begun = time.process_time()
    assert mcnemar(10_050, 9_950) == pytest.approx(0.242, abs=0.002)
    assert time.process_time() - begun < 5


def test_wilson_gives_known_values() -> None:
    found = wilson(8, 10, 0.95)
    assert found.value == 0.8
    assert found.low == pytest.approx(0.4902, abs=1e-4)
    assert found.high == pytest.approx(0.9433, abs=1e-4)
    assert wilson(0, 20, 0.95).low == 0.0
    assert wilson(20, 20, 0.95).high == pytest.approx(1.0)


@pytest.mark.slow
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20), st.integers(0, 3))
@settings(max_examples=15)
def test_a_bootstrap_interval_holds_its_mean_and_repeats_itself(values: list[float], seed: int) -> None:
    found = bootstrap(values, 0.95, seed)
    assert found.low - 1e-9 <= found.value <= found.high + 1e-9
    assert min(values) - 1e-9 <= found.low
    assert found.high <= max(values) + 1e-9
    assert found == bootstrap(values, 0.95, seed)


@pytest.mark.slow
def test_a_bootstrap_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draw = random.Random(5)
    found = [bootstrap([draw.gauss(1.0, 2.0) for _ in range(40)], 0.9, seed) for seed in range(40)]
    assert 30 <= sum(each.low <= 1.0 <= each.high for each in found) <= 40


def test_rows_that_are_not_the_same_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="same rows"):
        compare([True], [True, False])
    with pytest.raises(ValueError, match="same rows"):
        compare([], [])


def refused(found: Comparison, policy: BlessingPolicy | None = None) -> list[str]:
    return [each.rule for each in bless(policy or BlessingPolicy(), found).rules if not each.ok]


def test_a_challenger_that_is_clearly_better_is_blessed() -> None:
    decision = bless(BlessingPolicy(margin=0.1), measured(60, 1, 30, 9))
    assert decision.allowed, decision.reasons


def test_a_challenger_that_is_worse_is_refused_with_the_reasons() -> None:
    decision = bless(BlessingPolicy(), measured(2, 40, 30, 28, loss=0.4))
    assert [each.rule for each in decision.rules if not each.ok] == ["accuracy", "chance", "lost", "loss"]
    assert "worse" in "; ".join(decision.reasons)


def test_a_gain_that_can_be_chance_is_refused() -> None:
    decision = bless(BlessingPolicy(), measured(3, 1, 60, 36))
    assert [each.rule for each in decision.rules if not each.ok] == ["accuracy", "chance"]
    assert "cannot be told from chance" in decision.reasons[0]


def test_a_gain_below_the_margin_is_refused() -> None:
    assert refused(measured(12, 0, 60, 28), BlessingPolicy(margin=0.1)) == ["accuracy"]


def test_equal_models_are_refused() -> None:
    assert "accuracy" in refused(measured(0, 0, 60, 40, loss=0.0))


def test_few_rows_decide_nothing() -> None:
    assert refused(measured(40, 0)) == ["rows"]


def test_a_rising_loss_is_refused_although_the_accuracy_is_better() -> None:
    assert refused(measured(60, 0, 30, 10, loss=0.3)) == ["loss"]


def test_a_loss_that_was_not_measured_is_refused() -> None:
    champion, challenger = rows(60, 0, 30, 10)
    assert refused(compare(champion, challenger)) == ["loss"]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_in_one_row_is_refused(loss: float) -> None:
    champion, challenger = rows(60, 0, 30, 10)
    losses = [1.0] * len(champion)
    found = compare(champion, challenger, champion_loss=losses, challenger_loss=[*losses[:-1], loss])
    assert refused(found) == ["loss"]


def test_another_policy_has_another_digest() -> None:
    assert BlessingPolicy().digest != BlessingPolicy(margin=0.01).digest
