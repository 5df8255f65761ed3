"""Arithmetic of error budgets, against the numbers of the SRE Workbook."""

from __future__ import annotations

import pytest

from vllm_ci.monitoring.slo import BURNS, Objective, burn_rate


def objective(target: float, days: float = 30.0) -> Objective:
    return Objective(name="availability", title="", target=target, days=days, bad="")


def test_the_burn_rates_of_thirty_days_are_those_of_the_workbook() -> None:
    assert [each.rate(30) for each in BURNS] == pytest.approx([14.4, 6.0, 1.0])


def test_a_short_window_is_a_twelfth_of_the_long_one() -> None:
    assert BURNS[0].windows_s == (3600, 300)


def test_a_burn_rate_of_one_uses_the_budget_exactly() -> None:
    assert objective(0.999).budget == pytest.approx(0.001)
    assert burn_rate(0.001, objective(0.999)) == pytest.approx(1)
    assert burn_rate(0.0, objective(0.999)) == 0


@pytest.mark.parametrize("target", [0.0, 1.0, -1.0, 2.0, float("nan")])
def test_targets_outside_of_the_open_interval_are_refused(target: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        objective(target)


def test_a_period_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        objective(0.9, days=0)
