"""Watching a release in a ledger: which one, what is told to whom, and when it is rolled back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from registries.evidence import NOW, commit_of
from registries.releases import World, world_in
from unit.monitoring.programs import free_port, receiver
from vllm_ci.domain.errors import ConfigError, ErroredError, UsageError
from vllm_ci.domain.report import Verdict
from vllm_ci.monitoring import webhook
from vllm_ci.monitoring.slo import Objective
from vllm_ci.monitoring.watch import Settings, Watched, watch
from vllm_ci.release import history
from vllm_ci.release.deployed import record_deployed
from vllm_ci.release.publish import publish
from vllm_ci.release.rollback import rollback

pytestmark = pytest.mark.slow

SECOND = NOW + timedelta(hours=5)
RELEASED = SECOND.timestamp()


@pytest.fixture(name="world")
def _world(tmp_path: Path) -> World:
    """A channel with two releases, five hours apart."""
    world = world_in(tmp_path)
    publish(world.setup, world.candidate(1), "staging", now=NOW).require()
    publish(world.setup, world.candidate(2), "staging", now=SECOND).require()
    return world


Ask = Callable[..., dict[float, float]]


def server(*, failing_from: float = float("inf"), without: str = "") -> Ask:
    """Data of a server that answers 200 requests a block, half of them with errors from some time on."""

    def ask(expr: str, *, start: float, end: float, step: float) -> dict[float, float]:
        if without and without in expr:
            return {}
        found = {}
        for index in range(round((end - start) / step) + 1):
            at = start + index * step
            if "5xx" in expr:
                found[at] = 100.0 if at > failing_from else 0.0
            elif "4xx" in expr or "abort" in expr or "changes(" in expr or "remote_with_active" in expr:
                found[at] = 0.0
            elif "increase" in expr and " / " not in expr:
                found[at] = 2000.0
            else:
                found[at] = 1.0
        return found

    return ask


def settings(*, hook: str = "", roll_back: bool = False) -> Settings:
    return Settings(
        labels={"channel": "staging"},
        seconds=3600,
        settle_s=600,
        availability=Objective(name="availability", title="", target=0.99, days=30, bad=""),
        source="http://prometheus:9090",
        webhook=hook,
        roll_back=roll_back,
    )


def watched(world: World, ask: Ask, made: Settings, *, minutes: float = 90) -> Watched:
    return watch(world.setup, "staging", ask, made, clock=lambda: RELEASED + 60 * minutes)


def current(world: World) -> str:
    head = history.current(world.setup.ledger.read().records, "staging")
    assert head
    return head.release.commit


def test_a_release_that_changed_nothing_passes(world: World) -> None:
    found = watched(world, server(), settings())
    assert found.verdict is Verdict.PASSED
    assert found.record.release.commit == commit_of(2).sha
    assert found.burn_rate == 0


def test_errors_after_a_release_fail_it_and_are_measured_against_the_budget(world: World) -> None:
    found = watched(world, server(failing_from=RELEASED), settings())
    assert found.verdict is Verdict.FAILED
    assert [each.signal for each in found.compared.worse] == ["errors"]
    assert found.burn_rate == pytest.approx(5)  # 5 % of the requests, and 1 % is allowed


def test_errors_that_were_there_before_are_not_blamed_on_the_release(world: World) -> None:
    assert watched(world, server(failing_from=0), settings()).verdict is Verdict.PASSED


@pytest.mark.parametrize("lost", ["up{", "http_requests_total", "time_to_first_token"])
def test_a_needed_metric_that_is_absent_is_inconclusive(world: World, lost: str) -> None:
    assert watched(world, server(without=lost), settings()).verdict is Verdict.INCONCLUSIVE


def test_a_look_that_comes_too_early_is_inconclusive(world: World) -> None:
    assert watched(world, server(), settings(), minutes=12).verdict is Verdict.INCONCLUSIVE


def test_nothing_is_told_and_nothing_moved_when_nothing_became_worse(world: World) -> None:
    with receiver() as hook:
        found = watched(world, server(), settings(hook=hook.url, roll_back=True))
    assert not hook.bodies
    assert not found.moved
    assert current(world) == commit_of(2).sha


def test_an_anomaly_rolls_back_and_the_webhook_hears_of_both(world: World) -> None:
    with receiver() as hook:
        found = watched(world, server(failing_from=RELEASED), settings(hook=hook.url, roll_back=True))
    assert found.moved
    assert current(world) == commit_of(1).sha
    [body] = hook.bodies
    [alert] = body["alerts"]
    assert alert["labels"]["signal"] == "errors"
    assert alert["labels"]["commit"] == commit_of(2).sha
    assert alert["annotations"]["rollback"] == f"rolled back to {commit_of(1).sha[:12]}"
    assert found.to_json()["rollback"]["release"]["commit"] == commit_of(1).sha


def test_without_permission_an_anomaly_is_only_told(world: World) -> None:
    with receiver() as hook:
        found = watched(world, server(failing_from=RELEASED), settings(hook=hook.url))
    assert found.notified
    assert current(world) == commit_of(2).sha


def test_a_webhook_that_is_down_does_not_hinder_the_rollback(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook.send, "__kwdefaults__", {"sleep": lambda _: None})
    url = f"http://127.0.0.1:{free_port()}/s3cret"
    found = watched(world, server(failing_from=RELEASED), settings(hook=url, roll_back=True))
    assert current(world) == commit_of(1).sha
    assert not found.notified
    assert "did not take the message" in found.problems[0]
    assert found.verdict is Verdict.FAILED


def test_a_rollback_is_never_rolled_back_further(world: World) -> None:
    publish(world.setup, world.candidate(3), "staging", now=SECOND + timedelta(hours=5)).require()
    rollback(world.setup, "staging", now=SECOND + timedelta(hours=8)).require()
    begun = (SECOND + timedelta(hours=8)).timestamp()
    found = watch(world.setup, "staging", server(failing_from=begun), settings(roll_back=True), clock=lambda: begun + 5400)
    assert found.verdict is Verdict.FAILED
    assert "was a rollback already" in found.problems[0]
    assert current(world) == commit_of(2).sha


def test_a_first_release_with_an_anomaly_says_that_there_is_nothing_to_go_back_to(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    publish(world.setup, world.candidate(1), "staging", now=SECOND).require()
    found = watched(world, server(failing_from=RELEASED), settings(roll_back=True))
    assert "no earlier release" in found.problems[0]
    assert found.verdict is Verdict.FAILED


def test_waiting_looks_again_until_all_time_has_passed_and_stops_at_an_anomaly(world: World) -> None:
    now = [RELEASED + 60]

    def pass_(seconds: float) -> None:
        now[0] += seconds

    def waited(ask: Ask) -> Watched:
        now[0] = RELEASED + 60
        return watch(world.setup, "staging", ask, settings(), wait=True, clock=lambda: now[0], sleep=pass_)

    assert waited(server()).verdict is Verdict.PASSED
    assert now[0] >= RELEASED + 600 + 3600 - 150
    assert waited(server(failing_from=RELEASED)).verdict is Verdict.FAILED
    assert now[0] < RELEASED + 2700


@pytest.mark.parametrize(("minutes", "fails"), [(9, False), (10, True)])
def test_waiting_outlasts_a_restart_of_prometheus_and_not_its_end(minutes: int, fails: bool, world: World) -> None:
    now = [RELEASED + 60]
    away = RELEASED + 1800

    def pass_(seconds: float) -> None:
        now[0] += seconds

    def ask(expr: str, *, start: float, end: float, step: float) -> dict[float, float]:
        if away < now[0] <= away + 60 * minutes:
            raise ErroredError("Prometheus at 127.0.0.1:9090 cannot be reached")
        return server(failing_from=RELEASED + 2400)(expr, start=start, end=end, step=step)

    def waited() -> Watched:
        return watch(world.setup, "staging", ask, settings(), wait=True, clock=lambda: now[0], sleep=pass_)

    if fails:
        with pytest.raises(ErroredError, match="cannot be reached"):
            waited()
    else:
        assert waited().verdict is Verdict.FAILED


def test_a_server_that_cannot_be_reached_at_the_first_look_is_said_at_once(world: World) -> None:
    def ask(*_: object, **__: object) -> dict[float, float]:
        raise ErroredError("Prometheus at 127.0.0.1:9090 cannot be reached")

    def sleep(seconds: float) -> None:
        pytest.fail(f"it waits for {seconds} s")

    with pytest.raises(ErroredError, match="cannot be reached"):
        watch(world.setup, "staging", ask, settings(), wait=True, clock=lambda: RELEASED + 5400, sleep=sleep)


def test_the_time_before_begins_after_the_release_before_has_settled(world: World) -> None:
    publish(world.setup, world.candidate(3), "staging", now=SECOND + timedelta(minutes=40)).require()
    begun = (SECOND + timedelta(minutes=40)).timestamp()
    found = watch(world.setup, "staging", server(), settings(), clock=lambda: begun + 7200)
    assert found.compared.stretches.before[0] >= RELEASED + 600


def test_a_later_start_of_serving_moves_what_is_compared(world: World) -> None:
    at = SECOND + timedelta(hours=2)
    found = watch(world.setup, "staging", server(), settings(), at=at, clock=lambda: at.timestamp() + 5400)
    assert found.compared.stretches.released == at.timestamp()


def deployed(world: World, number: int, at: datetime) -> None:
    release = next(each.release for each in world.setup.ledger.read().records if each.release.commit == commit_of(number).sha)
    record_deployed(world.setup, "staging", release, deployment="d", reason="", now=at)


def test_a_deployment_in_the_ledger_says_when_a_release_served(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    for number, hours in ((1, 0), (2, 5)):
        at = NOW + timedelta(hours=hours)
        publish(world.setup, world.candidate(number), "staging", now=at).require()
        deployed(world, number, at + timedelta(minutes=45))
    found = watch(world.setup, "staging", server(), settings(), clock=lambda: RELEASED + 86400)
    assert found.compared.stretches.before == (RELEASED - 3600, RELEASED)
    assert found.compared.stretches.after[0] == RELEASED + 45 * 60 + 600


def test_a_release_that_is_not_deployed_yet_is_not_watched(world: World) -> None:
    deployed(world, 2, SECOND + timedelta(minutes=1))
    publish(world.setup, world.candidate(3), "staging", now=SECOND + timedelta(hours=1)).require()
    with pytest.raises(UsageError, match="does not serve"):
        watch(world.setup, "staging", server(), settings())


def test_a_deployment_that_went_back_is_not_watched(world: World) -> None:
    deployed(world, 1, SECOND + timedelta(minutes=1))
    with pytest.raises(UsageError, match="does not serve"):
        watch(world.setup, "staging", server(), settings())


def test_requests_are_led_to_the_release_that_is_gone_back_to(world: World) -> None:
    led: list[str] = []
    made = dataclasses.replace(settings(roll_back=True), lead=lambda release: led.append(release.commit))
    found = watched(world, server(failing_from=RELEASED), made)
    assert led == [commit_of(1).sha]
    assert not found.problems


def test_requests_that_could_not_be_led_there_are_a_problem_that_is_told(world: World) -> None:
    def lead(_: object) -> None:
        raise ErroredError("the target cannot be reached")

    found = watched(world, server(failing_from=RELEASED), dataclasses.replace(settings(roll_back=True), lead=lead))
    assert found.moved
    assert "rolled back in the ledger: the target cannot be reached" in found.problems[0]


def test_channels_without_a_release_and_unknown_ones_are_refused(world: World) -> None:
    with pytest.raises(UsageError, match="nothing was released to production"):
        watch(world.setup, "production", server(), settings())
    with pytest.raises(ConfigError, match="no channel nowhere"):
        watch(world.setup, "nowhere", server(), settings())
