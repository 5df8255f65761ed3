"""Plans of all strategies keep their promises at each moment, not only at the end of each step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vllm_ci.config.deploy import DeploySettings
from vllm_ci.deploy.plan import Change, Plan, Step, names, servable, shares
from vllm_ci.deploy.rolling import Rolling
from vllm_ci.deploy.strategy import BlueGreen, Canary, CanaryStep, Shadow, Strategy, Switch, plan
from vllm_ci.deploy.target import Current, Replica, Route, TargetCapabilities
from vllm_ci.domain.errors import UsageError

ALL = TargetCapabilities(weights=1, mirror=True, headers=True)
CHANGE = Change(old="old", old_replicas=4, new="new", replicas=4)

weights = st.lists(st.integers(1, 100), min_size=1, max_size=5, unique=True).map(sorted)
ROLLING = st.builds(Rolling, max_surge=st.integers(0, 5), max_unavailable=st.integers(0, 5), hold_s=st.sampled_from([0.0, 5.0]))
STRATEGIES: st.SearchStrategy[Strategy] = st.one_of(
    st.builds(BlueGreen, person=st.booleans(), watch_s=st.sampled_from([0.0, 30.0])),
    st.builds(
        Canary, stages=weights.map(lambda given: tuple(CanaryStep(weight=each) for each in given)), header=st.just("beta")
    ),
    st.builds(Shadow, percent=st.integers(1, 100)),
    ROLLING,
    st.builds(Switch),
)


@st.composite
def changes(draw: st.DrawFn) -> Change:
    old = draw(st.sampled_from(["", "old", "new"]))
    return Change(old=old, old_replicas=draw(st.integers(1, 12)) if old else 0, new="new", replicas=draw(st.integers(1, 12)))


def planned(strategy: Strategy, change: Change, *, keep_s: float = 60.0) -> Plan | None:
    """The plan, or nothing where the settings are refused with an explanation."""
    try:
        return plan(strategy, change, ALL, target="a target", keep_s=keep_s)
    except UsageError:
        return None


Moment = tuple[Mapping[str, int], Route]


def moments(steps: tuple[Step, ...], running: Mapping[str, int], route: Route) -> Iterator[tuple[Step, Moment]]:
    """Every state on the way, in the order in which the driver reaches it: start, route, stop."""
    for step in steps:
        running = {name: max(running.get(name, 0), step.replicas.get(name, 0)) for name in {*running, *step.replicas}}
        yield step, (running, route)
        route = step.route
        yield step, (running, route)
        running = step.replicas
        yield step, (running, route)


def promise(strategy: Strategy, change: Change) -> int:
    missing = strategy.max_unavailable if isinstance(strategy, Rolling) and not change.scaling else 0
    return 0 if change.first else min(change.old_replicas, change.replicas) - missing


def limit(strategy: Strategy, change: Change) -> int:
    surge = strategy.max_surge if isinstance(strategy, Rolling) else change.replicas
    return max(change.old_replicas, change.replicas) + surge


def beginning(change: Change) -> Moment:
    return ({change.old: change.old_replicas}, Route(weights={change.old: 100})) if change.old else ({}, Route())


def assert_kept(steps: tuple[Step, ...], begin: Moment, least: int, most: int) -> Moment:
    last = begin
    for step, (running, route) in moments(steps, *begin):
        assert all(running.get(name) for name in route.revisions), f"{step.name}: {route} names what does not run: {running}"
        serving = {name: share for name, share in route.weights.items() if share}
        assert sum(running[name] for name in serving) >= least, f"{step.name}: {running} {route}"
        for name, share in serving.items():  # shares are whole percentages
            assert running[name] >= least * (share - 1) / 100, f"{step.name}: {running} {route}"
        assert sum(running.values()) <= most
        last = running, route
    return last


@given(ROLLING | STRATEGIES, changes(), st.sampled_from([0.0, 60.0]))
def test_each_moment_of_a_plan_has_ready_replicas_for_its_route_and_the_promised_number(
    strategy: Strategy, change: Change, keep_s: float
) -> None:
    made = planned(strategy, change, keep_s=keep_s)
    if made is None:
        return
    running, route = assert_kept(made.steps, beginning(change), promise(strategy, change), limit(strategy, change))
    assert dict(running) == {"new": change.replicas}
    assert route == Route(weights={"new": 100})


@given(ROLLING | STRATEGIES, changes(), st.data())
def test_there_is_a_way_back_from_each_step_that_keeps_the_promise_too(
    strategy: Strategy, change: Change, data: st.DataObject
) -> None:
    made = planned(strategy, change)
    if made is None:
        return
    at = data.draw(st.integers(0, len(made.steps) - 1))
    if made.steps[at].live:
        with pytest.raises(UsageError, match="live already"):
            made.back(at)
        return
    # Killed at any moment of the step, not only when it was whole.
    on_the_way = [moment for step, moment in moments(made.steps, *beginning(change)) if step is made.steps[at]]
    begin = data.draw(st.sampled_from(on_the_way))
    running, route = assert_kept(made.back(at), begin, promise(strategy, change), limit(strategy, change))
    assert (dict(running), dict(route.weights)) == (dict(beginning(change)[0]), dict(beginning(change)[1].weights))


@pytest.mark.parametrize("old", [1, 3, 5])
@pytest.mark.parametrize("new", [1, 2, 4, 6])
@pytest.mark.parametrize("surge", [0, 1, 2])
@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_rolling_change_goes_back_from_each_moment_without_more_replicas_than_allowed(
    old: int, new: int, surge: int, missing: int
) -> None:
    change = Change(old="old", old_replicas=old, new="new", replicas=new)
    strategy = Rolling(max_surge=surge, max_unavailable=missing)
    made = planned(strategy, change)
    for step, begin in moments(made.steps, *beginning(change)) if made else ():
        if not step.live:
            least, most = promise(strategy, change), limit(strategy, change)
            assert_kept(made.back(made.steps.index(step)), begin, least, most)  # type: ignore[union-attr]


@pytest.mark.slow
@given(STRATEGIES, changes())
def test_nobody_reaches_a_new_revision_before_its_checks(strategy: Strategy, change: Change) -> None:
    made = planned(strategy, change)
    if made is None or change.scaling or isinstance(strategy, Switch):
        return
    first = next(step for step in made.steps if step.replicas.get("new"))
    assert first.checks == "before"
    assert "new" not in first.route.weights


@pytest.mark.slow
@given(STRATEGIES, changes())
def test_a_plan_is_live_only_when_all_requests_go_to_the_new_revision(strategy: Strategy, change: Change) -> None:
    made = planned(strategy, change)
    if made is None:
        return
    live = [step.live for step in made.steps]
    assert live == sorted(live)
    assert live[-1]
    assert all(step.route.weights == {"new": 100} for step in made.steps if step.live)


@pytest.mark.slow
@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 50), min_size=1).filter(lambda parts: any(parts.values())),
    st.sampled_from([1, 5, 10]),
)
def test_shares_sum_to_100_and_differ_from_the_exact_ones_by_less_than_one_unit(
    parts: dict[str, int], granularity: int
) -> None:
    found = shares(parts, granularity=granularity)
    assert sum(found.values()) == 100
    for name, part in parts.items():
        assert abs(found.get(name, 0) - 100 * part / sum(parts.values())) < granularity


def test_a_canary_has_as_many_replicas_as_its_share_needs_and_the_old_one_keeps_all() -> None:
    made = plan(Canary(stages=(CanaryStep(weight=5), CanaryStep(weight=50))), CHANGE, ALL, target="t", keep_s=60)
    assert [dict(step.replicas) for step in made.steps] == [
        {"old": 4, "new": 1},
        {"old": 4, "new": 1},
        {"old": 4, "new": 2},
        {"old": 4, "new": 4},
        {"old": 4, "new": 4},
        {"new": 4},
    ]
    assert [step.route.weights.get("new", 0) for step in made.steps] == [0, 5, 50, 100, 100, 100]


def test_a_rolling_change_without_surge_makes_room_first() -> None:
    made = plan(Rolling(max_surge=0, max_unavailable=1), replace(CHANGE, old_replicas=2, replicas=2), ALL, target="t")
    assert [dict(step.replicas) for step in made.steps][:3] == [{"old": 1}, {"old": 1, "new": 1}, {"new": 1}]


@pytest.mark.parametrize(
    ("strategy", "able", "lack"),
    [
        (Shadow(), replace(ALL, mirror=False), "does not copy requests"),
        (Canary(stages=(CanaryStep(weight=5),)), replace(ALL, weights=0), "all requests to one revision"),
        (Canary(stages=(CanaryStep(weight=5),)), replace(ALL, weights=10), "in steps of 10 %"),
        (Canary(stages=(CanaryStep(weight=5),), header="beta"), replace(ALL, headers=False), "by a header"),
        (Rolling(), replace(ALL, weights=0), "all requests to one revision"),
        (Rolling(), replace(ALL, weights=50), "below the smallest step"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_plan_is_refused_when_the_target_cannot_do_it(strategy: Strategy, able: TargetCapabilities, lack: str) -> None:
    with pytest.raises(UsageError, match=lack):
        plan(strategy, CHANGE, able, target="a target")


def test_a_target_without_headers_and_weights_can_still_do_blue_green() -> None:
    made = plan(BlueGreen(), CHANGE, TargetCapabilities(weights=0, mirror=False, headers=False), target="t")
    assert not any(step.route.headers for step in made.steps)


@pytest.mark.parametrize(
    ("strategy", "reason"),
    [
        (Rolling(max_surge=0, max_unavailable=0), "both 0"),
        (Rolling(max_surge=0, max_unavailable=4), "no replica might be left"),
        (Canary(stages=()), "must rise"),
        (Canary(stages=(CanaryStep(weight=50), CanaryStep(weight=5))), "must rise"),
        (Canary(stages=(CanaryStep(weight=0),)), "must rise"),
    ],
)
def test_settings_that_cannot_work_are_refused(strategy: Strategy, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        plan(strategy, CHANGE, ALL, target="t")


def test_a_route_leaves_out_revisions_whose_replicas_are_all_dead() -> None:
    current = Current(
        replicas=(Replica(name="a", revision="old", state="ready"), Replica(name="b", revision="new", state="failed"))
    )
    route = Route(weights={"old": 30, "new": 70}, mirror="new", mirror_percent=5, headers={"preview": "new"})
    assert servable(route, current) == Route(weights={"old": 100})
    assert servable(Route(weights={"new": 100}), current) == Route(weights={"new": 100})


def test_a_plan_is_shown_with_everything_that_a_step_does() -> None:
    made = plan(Shadow(percent=20, hold_s=30, person=True), CHANGE, ALL, target="t", keep_s=60)
    shown = "\n".join(names(made.steps))
    assert "20 % copied to new" in shown
    assert "header preview to new" in shown
    assert "keep 30 s, analysis, a person decides" in shown


def test_a_shadow_that_is_not_watched_is_refused_for_nothing_would_decide() -> None:
    with pytest.raises(ValidationError, match="hold_s"):
        DeploySettings.model_validate({"shadow": {"hold_s": 0}})
