"""When a deployment is scaled to zero, in virtual time, and what a deployment plans where it is."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standin.deploying import NEW, OLD, wanted
from vllm_ci.config.deploy import DeploySettings
from vllm_ci.deploy import verbs
from vllm_ci.deploy.journal import Journal
from vllm_ci.deploy.rolling import Rolling
from vllm_ci.deploy.scaling import Need, Scale, Use, again_s, decide, idle, used
from vllm_ci.deploy.strategy import BlueGreen, Canary, CanaryStep, Shadow, Strategy, Switch
from vllm_ci.deploy.target import Current, Route, TargetCapabilities
from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.gateway import Waiting
from vllm_ci.domain.project import ModelSpec, Project, ServerSpec
from vllm_ci.targets.local import starts
from vllm_ci.targets.local.starts import Start, Starts
from vllm_ci.targets.memory import MemoryTarget
from vllm_ci.targets.revision import serving_of

RULE = Scale(least=0, most=4, idle_s=600.0)
ASLEEP = Current(route=Route(weights={OLD.name: 100}), wanted={OLD.name: 0}, revisions={OLD.name: OLD}, asleep=True)


def lived(times: Sequence[float], *, start_s: float, last_s: float = 5.0, rule: Scale = RULE) -> tuple[int, int]:
    """Starts and requests that had to wait, for requests at these times; the deployment is looked at every two seconds."""
    use, ready_at, awake, started, waited = Use(at=0.0, requests=0), 0.0, True, 0, 0
    now, number = 0.0, 0
    while number < len(times) or awake:
        now += 2.0
        came = [each for each in times[number:] if each <= now]
        number += len(came)
        if not awake and came:
            awake, started, waited, ready_at = True, started + 1, waited + len(came), now + start_s
            continue
        waited += sum(each < ready_at for each in came)
        still_open = sum(now - last_s < each <= now for each in times[:number])
        use = used(use, requests=number, still_open=still_open, now=now)
        if awake and idle(rule, use, ready_at=ready_at, start_s=start_s, now=now):
            awake = False
    return started, waited


@pytest.mark.slow
def test_a_deployment_with_a_request_every_few_minutes_is_never_ended() -> None:
    assert lived([each * 300.0 for each in range(1, 288)], start_s=60) == (0, 0)


def test_one_start_is_enough_for_requests_at_once_and_those_that_come_while_it_starts() -> None:
    at_once = [5000.0] * 50 + [5000.0 + each for each in range(60)]
    assert lived(at_once, start_s=60)[0] == 1


@pytest.mark.slow
def test_a_start_that_takes_longer_than_the_idle_time_is_not_wasted_at_once() -> None:
    """Requests every 15 minutes, servers that take 20 minutes to start: it would only start and end servers."""
    times = [each * 900.0 for each in range(1, 96)]
    assert lived(times, start_s=1200)[0] == 0
    assert lived(times, start_s=30)[0] == 95, "where a start is short, memory is free in between"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_day_of_rare_requests_has_at_most_one_start_for_each_gap(seed: int) -> None:
    rnd = random.Random(seed)
    times, now = [], 0.0
    while now < 86400:
        now += rnd.expovariate(1 / 900)
        times.append(now)
    gaps = sum(after - before >= RULE.idle_s for before, after in zip([0.0, *times], times, strict=False))
    assert 0 < lived(times, start_s=60)[0] <= gaps


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e5), st.floats(0, 1e6))
def test_only_a_deployment_that_may_be_is_ended_and_never_before_its_time(
    at: float, ready: float, took: float, now: float
) -> None:
    use = Use(at=at, requests=1)
    assert not idle(replace(RULE, least=1), use, ready_at=ready, start_s=took, now=now)
    if idle(RULE, use, ready_at=ready, start_s=took, now=now):
        assert now - at >= RULE.idle_s
        assert now - ready >= max(RULE.idle_s, took)


def test_the_load_alone_ends_no_last_server() -> None:
    needs = tuple(Need(at=float(each), servers=1) for each in range(0, 1000, 30))
    assert decide(RULE, 0.0, ready=1, wanted=1, needs=needs, now=1000.0).servers == 1


def test_starts_that_fail_are_tried_again_later_and_later_and_the_time_is_bounded() -> None:
    assert [again_s(each) for each in (1, 2, 3, 6, 1000)] == [10, 20, 40, 300, 300]


SHARING: tuple[Strategy, ...] = (Canary(stages=(CanaryStep(weight=5), CanaryStep(weight=100))), Rolling(), Shadow())


@pytest.mark.parametrize("strategy", [Switch(), BlueGreen(), *SHARING], ids=lambda each: each.name)
def test_requests_stay_where_they_wait_until_the_new_release_gets_all_of_them(strategy: Strategy, tmp_path: Path) -> None:
    plan = wanted(strategy).planned(ASLEEP, MemoryTarget(tmp_path))
    assert plan is not None
    weights = [step.route.weights for step in plan.steps]
    assert all(each in ({OLD.name: 100}, {NEW.name: 100}) for each in weights)
    assert all(step.replicas.get(OLD.name, 0) == 0 for step in plan.steps)
    assert plan.back(0)[-1].route.weights == {OLD.name: 100}, "going back, requests wait for the old release again"


class Sleeping(MemoryTarget):
    """A target whose old release is scaled to zero until it is started."""

    @property
    def capabilities(self) -> TargetCapabilities:
        return replace(super().capabilities, zero=True)

    async def current(self) -> Current:
        found = await super().current()
        return replace(found, asleep=not found.ready(OLD.name))


async def sleeping(folder: Path) -> Sleeping:
    target = Sleeping(folder / "target")
    await target.start(OLD, 1)
    await target.route(Route(weights={OLD.name: 100}))
    await target.start(OLD, 0)
    assert (await target.current()).asleep
    return target


@pytest.mark.anyio
@pytest.mark.parametrize(("strategy", "wakes"), [(BlueGreen(), False), (Switch(), False), *((each, True) for each in SHARING)])
async def test_a_strategy_that_shares_requests_wakes_the_old_release_first(
    strategy: Strategy, wakes: bool, tmp_path: Path
) -> None:
    target = await sleeping(tmp_path)
    made = await verbs.begun(target, Journal(tmp_path), replace(wanted(strategy), scale=RULE))
    assert made is not None
    assert (made.plan.strategy, made.plan.change.old_replicas) == (strategy.name, int(wakes))
    assert (await target.current()).asleep is not wakes


@pytest.mark.anyio
async def test_a_release_that_is_scaled_to_zero_serves_already_and_wakes_where_it_must_not_be(tmp_path: Path) -> None:
    target = await sleeping(tmp_path)
    same = replace(wanted(BlueGreen(), letter="a", replicas=1), scale=RULE)
    assert same.planned(await target.current(), target) is None
    made = replace(same, scale=None).planned(await target.current(), target)
    assert made is not None
    assert made.steps[-1].replicas == {OLD.name: 1}


def test_a_target_without_means_for_it_refuses(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="target memory cannot be scaled to zero"):
        replace(wanted(BlueGreen()), scale=RULE).planned(ASLEEP, MemoryTarget(tmp_path))


def test_times_are_numbers_with_a_unit_or_seconds() -> None:
    scale = {"min": 0, "idle": "10m", "wait": 90, "queue": 7}
    settings = DeploySettings.model_validate({"scale": scale})
    assert settings.waiting == Waiting(queue=7, wait_s=90)
    assert settings.scale is not None
    assert (settings.scale.domain().idle_s, settings.scale.domain().most) == (600, 1)
    assert DeploySettings.model_validate({"scale": {"min": 1, "max": 2}}).waiting is None


@pytest.mark.parametrize(
    "wrong", [{"idle": "10"}, {"idle": "1d"}, {"idle": "-1s"}, {"wait": 0}, {"wait": "31m"}, {"idle": None}]
)
def test_times_that_cannot_be_meant_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"idle|wait"):
        DeploySettings.model_validate({"scale": {"min": 0, **wrong}})


def sleeper(gpus: str, env: Mapping[str, str] = MappingProxyType({})) -> Project:
    server = ServerSpec(args=("--max-model-len=64",), gpus=gpus, env=env)
    return Project(name="p", config="c", model=ModelSpec(served_name="m", name="org/m"), server=server, stages=())


def test_servers_that_sleep_are_started_with_the_sleep_mode_of_vllm() -> None:
    settings = DeploySettings.model_validate({"scale": {"min": 0, "sleep": True}})
    config = {"Entrypoint": ["vllm", "serve"]}
    made = serving_of(sleeper("0"), settings, config, "")
    assert made.sleeps
    assert "--enable-sleep-mode" in made.argv
    assert made.env == {"VLLM_SERVER_DEV_MODE": "1"}
    plain = serving_of(sleeper("0"), DeploySettings.model_validate({"scale": {"min": 0}}), config, "")
    assert (plain.sleeps, "--enable-sleep-mode" in plain.argv, dict(plain.env)) == (False, False, {})


def test_sleep_mode_is_refused_where_there_is_none() -> None:
    settings = {"scale": {"min": 0, "sleep": True}}
    with pytest.raises(UsageError, match=r"deploy\.scale\.sleep needs servers with GPUs"):
        serving_of(sleeper("none"), DeploySettings.model_validate(settings), {}, "")
    with pytest.raises(UsageError, match="target kubernetes do not sleep"):
        serving_of(sleeper("0"), DeploySettings.model_validate({**settings, "target": "kubernetes"}), {}, "")


def test_starts_are_kept_and_told_to_prometheus(tmp_path: Path) -> None:
    good = Start(at=100.0, revision="r", process_s=0.1, ready_s=40.0, routed_s=40.2, waited=3, ended_at=140.2)
    found = Starts().having(good).having(replace(good, error="it ended")).answered(41.0)
    assert (found.succeeded, found.failed, found.failures, found.again_at) == (1, 1, 1, 150.2)
    starts.keep(tmp_path, found)
    assert starts.read(tmp_path) == found
    (tmp_path / "starts.json").write_text("{")
    assert starts.read(tmp_path) == Starts()
    text = starts.prometheus(found, asleep=True, waiting=3)
    assert "vllm_ci_scaled_to_zero 1" in text
    assert 'vllm_ci_start_seconds{phase="first_byte"} 41.000' in text
    assert "vllm_ci_start_seconds" not in starts.prometheus(Starts(), asleep=False, waiting=0)
