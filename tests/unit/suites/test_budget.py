"""The plan is pure: what runs, how large, in which order, for every speed and budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_ci.suites import manifest
from vllm_ci.suites.plugins import budget
from vllm_ci.suites.plugins.budget import Load, Plan
from vllm_ci.suites.speed import Speed
from vllm_ci.suites.work import DIMENSIONS, CaseCost, Round, Sizes

SPEED = Speed(request_s=0.1, step_s=0.05, crowd_request_s=0.3, crowd_step_s=0.1, prompt_token_s=0.002)


def load(name: str, tokens: int, least: int = 0, *, deep: bool = False, times: float = 1) -> Load:
    rounds = [Round(times=times, streams=1, tokens=tokens, prompt_tokens=0)]
    sizes = {"full": Sizes(tokens=tokens), "least": Sizes(tokens=least)} if least else {}
    return Load(name=name, work=CaseCost(rounds=rounds, **sizes), deep=deep)


positive = st.floats(min_value=1e-5, max_value=2.0)
speeds = st.builds(
    Speed,
    request_s=positive,
    step_s=positive,
    crowd=st.integers(2, 16),
    crowd_request_s=positive,
    crowd_step_s=positive,
    prompt_token_s=st.floats(min_value=0, max_value=0.1),
)


@st.composite
def works(draw: st.DrawFn) -> CaseCost:
    full = {name: draw(st.integers(0, 200)) for name in DIMENSIONS}
    least = {name: draw(st.integers(1, value)) if value else 0 for name, value in full.items()}
    rounds = draw(
        st.lists(
            st.builds(
                Round,
                times=st.floats(min_value=0.1, max_value=40),
                streams=st.integers(1, 48),
                tokens=st.integers(0, 2000),
                prompt_tokens=st.integers(0, 4000),
            ),
            max_size=3,
        )
    )
    return CaseCost(rounds=rounds, full=Sizes(**full), least=Sizes(**least))


loads = st.lists(st.tuples(works(), st.booleans()), min_size=1, max_size=12).map(
    lambda drawn: [Load(name=f"case-{at}", work=work, deep=deep) for at, (work, deep) in enumerate(drawn)]
)


@pytest.mark.slow
@given(loads, speeds, st.floats(min_value=0, max_value=500))
def test_no_plan_loses_a_case_or_leaves_out_one_that_always_runs(cases: list[Load], speed: Speed, budget_s: float) -> None:
    plan = budget.make(cases, speed, budget_s)
    assert sorted(plan.order) == sorted(case.name for case in cases)
    deep = {case.name for case in cases if case.deep}
    assert set(plan.left_out) <= deep
    assert plan.order[len(plan.order) - len(plan.left_out) :] == () or set(
        plan.order[-len(plan.left_out) or len(plan.order) :]
    ) == set(plan.left_out)
    for case in cases:
        for name in DIMENSIONS:
            low, high = getattr(case.work.least, name), getattr(case.work.full, name)
            assert low <= getattr(plan.sizes[case.name], name) <= high
    if budget_s and plan.estimate_s > budget_s:
        assert set(plan.left_out) == deep, "over budget, and something could still have been left out"
        assert all(plan.sizes[case.name] == case.work.least for case in cases)
    if not budget_s:
        assert not plan.left_out
        assert all(plan.sizes[case.name] == case.work.full for case in cases)


def test_a_fast_server_runs_everything_at_full_size_in_the_given_order() -> None:
    fast = Speed(request_s=0.01, step_s=0.001, crowd_request_s=0.02, crowd_step_s=0.002, prompt_token_s=0)
    for suite in ("integration", "streaming", "security"):
        cases = [
            Load(name=f"{name}[{n}]", work=CaseCost(rounds=manifest.rounds(name) or ()), deep=True)
            for name, count in manifest.promised(suite).items()
            for n in range(count)
        ]
        plan = budget.make(cases, fast, 90)
        assert plan.order == tuple(case.name for case in cases)
        assert not plan.left_out
        assert plan.estimate_s < 30


def test_cases_get_smaller_before_any_is_left_out() -> None:
    cases = [load("large", 200, 20, deep=True), load("fixed", 20)]
    plan = budget.make(cases, SPEED, 6)
    assert not plan.left_out
    assert 20 < plan.sizes["large"].tokens < 200
    assert plan.estimate_s <= 6
    assert budget.make(cases, SPEED, 60).sizes["large"].tokens == 200


def test_the_longest_are_left_out_first_and_say_why() -> None:
    cases = [load("a", 100, deep=True), load("b", 400, deep=True), load("c", 10)]
    plan = budget.make(cases, SPEED, 8)
    assert plan.left_out == ("b",)
    assert plan.why("b") == "left out for time: about 20 s of a budget of 8 s; run with --deep"


def test_long_cases_come_last() -> None:
    cases = [load("long", 400), load("longer", 600), load("short", 10), load("shorter", 5)]
    assert budget.make(cases, SPEED, 0).order == ("short", "shorter", "long", "longer")


def test_without_a_speed_everything_runs() -> None:
    plan = budget.make([load("x", 10**6, 1, deep=True)], None, 1)
    assert plan.sizes["x"].tokens == 10**6
    assert not plan.left_out


@pytest.mark.parametrize(
    ("expected_s", "elapsed_s", "factor"),
    [(10.0, 12.0, None), (10.0, 30.0, 3.0), (60.0, 12.0, 0.2), (1.0, 5.0, None), (0.0, 60.0, None)],
)
def test_a_deviation_is_worth_a_new_plan_when_it_is_large_and_well_known(
    expected_s: float, elapsed_s: float, factor: float | None
) -> None:
    assert budget.deviation(expected_s, elapsed_s) == factor


def test_a_server_that_became_slower_loses_its_deep_cases_and_one_that_became_faster_gets_them_back() -> None:
    rest = [load("x", 100), load("y", 400, deep=True)]
    assert not budget.make(rest, SPEED, 50).left_out
    assert budget.make(rest, SPEED.scaled(3), 50).left_out == ("y",)
    assert not budget.make(rest, SPEED.scaled(3).scaled(1 / 3), 50).left_out


def test_prompts_that_fill_the_context_cost_more_where_it_is_longer() -> None:
    work = CaseCost(rounds=[Round(times=1, streams=1, tokens=1, prompt_tokens=2000)])
    assert work.with_prompts(4).seconds(SPEED, Sizes()) == pytest.approx(0.1 + (8000 - 12) * 0.002)


def test_a_plan_tells_the_estimate_without_what_is_left_out() -> None:
    plan = Plan(budget_s=5, order=("a", "b"), sizes={}, estimates_s={"a": 2.0, "b": 9.0}, left_out=("b",))
    assert plan.estimate_s == 2.0
