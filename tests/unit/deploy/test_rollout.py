"""The driver: what serves in the end, what goes back by itself, and who noticed."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from standin.deploying import (
    ANALYSIS,
    NEW,
    OLD,
    STRATEGIES,
    assert_serves,
    deployed,
    release,
    revision,
    served,
    settled,
    wanted,
)
from vllm_ci.deploy import verbs
from vllm_ci.deploy.analysis import Analysis, Outcome
from vllm_ci.deploy.condition import parse
from vllm_ci.deploy.deployment import Deployment
from vllm_ci.deploy.journal import BusyError, Journal, Request, Verb
from vllm_ci.deploy.plan import Checks
from vllm_ci.deploy.rollout import Rollout
from vllm_ci.deploy.rules import Checked, Rules
from vllm_ci.deploy.strategy import BlueGreen, Canary, CanaryStep, Switch
from vllm_ci.deploy.target import Current, Route
from vllm_ci.domain.errors import ErroredError, UsageError
from vllm_ci.targets.memory import Behaviour, MemoryTarget

pytestmark = pytest.mark.anyio

JUDGED = {name: each for name, each in STRATEGIES.items() if name != "rollback"}
RULES = Rules(analysis=ANALYSIS)


@pytest.fixture(name="journal")
def _journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


@pytest.mark.parametrize("name", STRATEGIES)
async def test_a_good_release_serves_alone_in_the_end_and_no_request_is_lost(
    name: str, tmp_path: Path, journal: Journal
) -> None:
    target = await served(tmp_path)
    done = await deployed(target, journal, wanted(STRATEGIES[name]))
    assert done.phase == "live"
    assert settled(await target.current(), NEW.name)
    assert target.state.lost == 0
    assert journal.read() == done


@pytest.mark.parametrize("name", JUDGED)
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Behaviour(errors=0.2), "%, limit <= 1 %"),
        (Behaviour(ttft_ms=150), "ttft_ms.p95 150, limit <= 75"),
        (Behaviour(never_ready=True), "was not ready after 60 s"),
        (Behaviour(dies_after=3), "a server of the new release died"),
    ],
    ids=["errors", "slow", "never ready", "dies"],
)
async def test_a_bad_release_goes_back_by_itself_and_says_who_saw_it(
    name: str, fault: Behaviour, said: str, tmp_path: Path, journal: Journal
) -> None:
    target = await served(tmp_path, faults={NEW.name: fault})
    done = await deployed(target, journal, wanted(JUDGED[name]))
    assert done.phase == "returned"
    assert said in done.reason
    assert settled(await target.current(), OLD.name)
    await assert_serves(target)
    if fault.never_ready or name == "shadow":
        assert done.exposed == 0
        assert "no request" in done.exposure or "none of" in done.exposure
    else:
        assert done.exposed > 0
        assert f"{done.exposed} of {done.requests}" in done.exposure


async def test_a_canary_shows_a_bad_release_to_few(tmp_path: Path, journal: Journal) -> None:
    target = await served(tmp_path, faults={NEW.name: Behaviour(errors=0.5)})
    done = await deployed(target, journal, wanted(STRATEGIES["canary"]))
    assert done.exposed / done.requests == pytest.approx(0.05)
    assert 0 < done.harmed <= done.exposed


async def test_a_first_deployment_serves_and_a_bad_first_one_leaves_nothing(tmp_path: Path, journal: Journal) -> None:
    bad = MemoryTarget(tmp_path / "bad", faults={NEW.name: Behaviour(never_ready=True)})
    done = await deployed(bad, journal, wanted(BlueGreen()))
    assert (done.phase, (await bad.current()).replicas) == ("returned", ())
    good = MemoryTarget(tmp_path / "good")
    assert (await deployed(good, journal, wanted(BlueGreen()))).phase == "live"
    assert settled(await good.current(), NEW.name)


@pytest.mark.parametrize(("when", "phase"), [("before", "live"), ("during", "returned")])
async def test_a_server_that_was_started_again_counts_as_dead_only_in_this_step(
    when: str, phase: str, tmp_path: Path, journal: Journal
) -> None:
    target = await served(tmp_path)
    observe = target.observe

    def restart() -> None:
        state = target.state
        mine = {name: replace(each, restarts=each.restarts + 1) for name, each in state.replicas.items()}
        target.change(replicas=mine)

    async def restarting(*, seconds: float) -> Any:
        if when == "during":
            restart()
        return await observe(seconds=seconds)

    target.observe = restarting  # type: ignore[method-assign]
    await target.start(NEW, 3)
    restart()
    done = await deployed(target, journal, wanted(STRATEGIES["canary"]))
    assert done.phase == phase


async def test_a_release_whose_servers_are_all_dead_is_replaced(tmp_path: Path, journal: Journal) -> None:
    target = await served(tmp_path, faults={OLD.name: Behaviour(dies_after=1)})
    await target.observe(seconds=10)
    assert (await target.current()).ready(OLD.name) == 0
    done = await deployed(target, journal, wanted(STRATEGIES["canary"]))
    assert done.phase == "live"
    assert settled(await target.current(), NEW.name)


async def test_logs_of_servers_that_are_ended_on_the_way_back_are_kept(tmp_path: Path, journal: Journal) -> None:
    target = await served(tmp_path, faults={NEW.name: Behaviour(never_ready=True)})
    await deployed(target, journal, wanted(BlueGreen()))
    logs = list(journal.logs.iterdir())
    assert len(logs) == 3
    assert "is failed" in logs[0].read_text()


async def test_the_old_one_is_kept_ready_for_its_time_and_ended_then(tmp_path: Path, journal: Journal) -> None:
    target, now = await served(tmp_path), [1000.0]
    rules = replace(RULES, clock=lambda: now[0])
    kept = await deployed(target, journal, wanted(BlueGreen(), keep_s=300), rules)
    assert kept.kept
    assert kept.recorded is True
    assert (await target.current()).ready(OLD.name) == 3
    now[0] += 299
    assert (await Rollout(target, journal, kept, rules).run()).kept
    now[0] += 2
    assert (await Rollout(target, journal, kept, rules).run()).phase == "live"
    assert settled(await target.current(), NEW.name)


async def test_going_back_to_what_is_still_ready_starts_nothing(tmp_path: Path, journal: Journal) -> None:
    target = await served(tmp_path)
    await deployed(target, journal, wanted(BlueGreen(), keep_s=300))
    made, clock = target.state.made, target.state.clock_s
    found, count = verbs.ready_revision(await target.current(), release("a")) or (None, 0)
    assert (found, count) == (OLD, 3)
    done = await verbs.go_back(target, journal, wanted(Switch(), letter="a"), RULES)
    assert done is not None
    assert done.phase == "live"
    assert target.state.made == made, "no server was started"
    assert target.state.clock_s - clock <= 1, "only the open requests of the one that is left were waited for"
    assert settled(await target.current(), OLD.name)


@pytest.mark.slow
async def test_going_back_waits_for_a_command_that_looks_whether_the_old_release_may_be_ended(
    tmp_path: Path, journal: Journal
) -> None:
    target = await served(tmp_path)
    await deployed(target, journal, wanted(BlueGreen(), keep_s=300))
    held = threading.Event()

    def look() -> None:
        with journal.changing("staging"):
            held.set()
            time.sleep(0.5)

    looking = threading.Thread(target=look)
    looking.start()
    assert held.wait(10)
    assert await verbs.go_back(target, journal, wanted(Switch(), letter="a"), RULES)
    looking.join()
    assert settled(await target.current(), OLD.name)


async def test_going_back_aborts_what_is_going_on(tmp_path: Path, journal: Journal) -> None:
    target = await served(tmp_path)
    held = await deployed(target, journal, wanted(Canary(stages=(CanaryStep(weight=5, hold_s=0, person=True),))))
    assert held.phase == "held"
    done = await verbs.go_back(target, journal, wanted(Switch(), letter="a"), RULES)
    assert done is not None
    assert done.phase == "returned"
    assert settled(await target.current(), OLD.name)
    assert await verbs.go_back(target, journal, wanted(Switch(), letter="a"), RULES) is None, "it serves already"


@pytest.mark.parametrize(("verb", "serves"), [("promote", NEW.name), ("abort", OLD.name)])
async def test_a_person_decides_about_a_deployment_that_is_held(
    verb: Verb, serves: str, tmp_path: Path, journal: Journal
) -> None:
    target = await served(tmp_path)
    strategy = Canary(stages=(CanaryStep(weight=5, hold_s=20, person=True), CanaryStep(weight=50, hold_s=20)))
    held = await deployed(target, journal, wanted(strategy))
    assert (held.phase, (await target.current()).route.weights) == ("held", {OLD.name: 95, NEW.name: 5})
    again = await deployed(target, journal, wanted(strategy))
    assert again.phase == "held", "running it again decides nothing"
    done = await verbs.decide(target, journal, "production", verb, RULES)
    assert done.phase == ("live" if verb == "promote" else "returned")
    assert settled(await target.current(), serves)


async def test_a_person_decides_when_there_is_no_data(tmp_path: Path, journal: Journal) -> None:
    target = await served(tmp_path, rate=0)
    held = await deployed(target, journal, wanted(STRATEGIES["canary"]))
    assert held.phase == "held"
    assert "0 requests, and 5 are needed" in held.reason


async def test_a_running_command_is_aborted_by_another(tmp_path: Path, journal: Journal) -> None:
    target = await served(tmp_path)
    started = anyio.Event()

    async def forever(_kind: Checks, _current: Current, _name: str) -> Checked:
        started.set()
        await anyio.sleep_forever()
        raise AssertionError

    ended: list[Deployment] = []

    async def first() -> None:
        with journal.changing("production"):
            ended.append(await deployed(target, journal, wanted(BlueGreen()), replace(RULES, check=forever)))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(first)
            await started.wait()
            done = await verbs.decide(target, journal, "production", "abort", RULES)
    assert ended[0].phase == done.phase == "returned"
    assert settled(await target.current(), OLD.name)


async def test_a_command_that_waits_is_promoted_by_another(tmp_path: Path, journal: Journal) -> None:
    target = await served(tmp_path)
    ended: list[Deployment] = []

    async def first() -> None:
        with journal.changing("production"):
            ended.append(await deployed(target, journal, wanted(BlueGreen(person=True)), replace(RULES, waits=True)))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(first)
            while (found := journal.read()) is None or found.phase != "held":
                await anyio.sleep(0.01)
            await verbs.decide(target, journal, "production", "promote", RULES)
    assert ended[0].phase == "live"
    assert settled(await target.current(), NEW.name)


async def test_of_two_commands_one_wins_and_the_other_says_who(journal: Journal) -> None:
    with (
        journal.changing("production"),
        pytest.raises(BusyError, match="another command is changing production") as caught,
        journal.changing("production"),
    ):
        pass
    assert "vllm-ci deploy abort production" in caught.value.remedy


async def test_another_release_is_refused_while_a_deployment_is_not_finished(tmp_path: Path, journal: Journal) -> None:
    target = await served(tmp_path)
    await deployed(target, journal, wanted(BlueGreen(person=True)))
    with pytest.raises(UsageError, match="is not finished") as caught:
        await deployed(target, journal, wanted(BlueGreen(), letter="c"))
    assert "held at step" in caught.value.why


async def test_a_release_that_is_kept_ready_makes_room_for_the_next_one(tmp_path: Path, journal: Journal) -> None:
    target = await served(tmp_path)
    await deployed(target, journal, wanted(BlueGreen(), keep_s=300))
    target._room = 6
    done = await deployed(target, journal, wanted(BlueGreen(), letter="c"))
    assert done.phase == "live"
    assert settled(await target.current(), revision("c").name)


async def test_what_does_not_fit_is_refused_with_the_sum_and_what_serves_stays(tmp_path: Path, journal: Journal) -> None:
    target = await served(tmp_path)
    target._room = 4
    done = await deployed(target, journal, wanted(BlueGreen()))
    assert done.phase == "returned"
    assert "there is room for 4" in done.reason
    assert settled(await target.current(), OLD.name)


@pytest.mark.parametrize(
    ("outcome", "phase"),
    [
        (Outcome.SUCCESSFUL, "live"),
        (Outcome.FAILED, "returned"),
        (Outcome.ERROR, "returned"),
        (Outcome.INCONCLUSIVE, "held"),
    ],
)
@pytest.mark.parametrize("kind", ["before", "after"])
async def test_checks_decide_before_and_after(
    outcome: Outcome, phase: str, kind: Checks, tmp_path: Path, journal: Journal
) -> None:
    target = await served(tmp_path)
    reached: list[Any] = []

    async def check(which: Checks, current: Current, name: str) -> Checked:
        reached.append((which, current.route.weights.get(name, 0), current.ready(name)))
        return Checked(outcome=outcome if which == kind else Outcome.SUCCESSFUL, reason="the suite said so")

    done = await deployed(target, journal, wanted(BlueGreen()), replace(RULES, check=check))
    assert done.phase == phase
    assert reached[0] == ("before", 0, 3)
    expected = "requests went to it and were not counted" if done.phase == "live" or kind == "after" else "no request of a user"
    assert done.exposure.startswith(expected)
    assert outcome is Outcome.SUCCESSFUL or done.reason == "the suite said so"


@pytest.mark.slow
async def test_a_target_that_cannot_be_asked_for_a_while_is_forgiven(tmp_path: Path, journal: Journal) -> None:
    target = await served(tmp_path)
    calls = [0]
    observe = target.observe

    async def sometimes(*, seconds: float) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            raise ErroredError("the gateway cannot be reached")
        return await observe(seconds=seconds)

    target.observe = sometimes  # type: ignore[method-assign]
    assert (await deployed(target, journal, wanted(BlueGreen(watch_s=30)))).phase == "live"


@pytest.mark.parametrize(("failing", "phase"), [(2, "live"), (4, "returned")])
async def test_a_target_that_cannot_say_what_runs_has_the_same_limit_of_errors(
    failing: int, phase: str, tmp_path: Path, journal: Journal
) -> None:
    target = await served(tmp_path)
    seen, silent = [0], [0]
    observe, current = target.observe, target.current

    async def observed(*, seconds: float) -> Any:
        seen[0] += 1
        if seen[0] <= failing:
            silent[0] = 1
            raise ErroredError("the cluster cannot be reached")
        return await observe(seconds=seconds)

    async def asked() -> Current:
        if silent[0]:
            silent[0] = 0
            raise ErroredError("the cluster cannot be reached")
        return await current()

    target.observe, target.current = observed, asked  # type: ignore[method-assign]
    rules = Rules(analysis=Analysis(conditions=(parse("errors <= 1%"),)))
    done = await deployed(target, journal, wanted(BlueGreen(watch_s=90)), rules)
    assert done.phase == phase
    if phase == "returned":
        assert "4 times in a row: the cluster cannot be reached" in done.reason


async def test_an_unreachable_gateway_ends_the_command_and_running_again_completes_it(tmp_path: Path, journal: Journal) -> None:
    target = await served(tmp_path)
    target.change(silent=True)
    with pytest.raises(ErroredError, match="cannot be reached"):
        await deployed(target, journal, wanted(BlueGreen()))
    target.change(silent=False)
    await assert_serves(target)
    assert (await deployed(target, journal, wanted(BlueGreen()))).phase == "live"


async def test_the_ledger_is_written_once_and_before_the_old_one_is_ended(tmp_path: Path, journal: Journal) -> None:
    target = await served(tmp_path)
    seen: list[str] = []

    def record(deployment: Deployment) -> None:
        seen.append(deployment.phase)
        if len(seen) == 1:
            raise ErroredError("the ledger cannot be reached")

    rules = replace(RULES, record=record)
    with pytest.raises(ErroredError, match="ledger"):
        await deployed(target, journal, wanted(BlueGreen(), keep_s=300), rules)
    assert (await target.current()).ready(OLD.name) == 3
    await assert_serves(target)
    await deployed(target, journal, wanted(BlueGreen(), keep_s=300), rules)
    await deployed(target, journal, wanted(BlueGreen(), keep_s=300), rules)
    assert seen == ["forward", "forward"]


async def test_the_same_release_again_changes_nothing_and_other_replicas_only_their_number(
    tmp_path: Path, journal: Journal
) -> None:
    target = await served(tmp_path)
    assert await verbs.begun(target, journal, wanted(BlueGreen(), letter="a")) is None
    done = await deployed(target, journal, wanted(BlueGreen(), letter="a", replicas=5))
    assert done.plan.strategy == "scale"
    assert settled(await target.current(), OLD.name, 5)
    await verbs.scale(target, journal, "production", 2)
    assert settled(await target.current(), OLD.name, 2)


async def test_stop_ends_everything_and_it_can_be_deployed_again(tmp_path: Path, journal: Journal) -> None:
    target = await served(tmp_path)
    await deployed(target, journal, wanted(BlueGreen(person=True)))
    await verbs.stop(target, journal, "production")
    assert (await target.current()).replicas == ()
    assert (await deployed(target, journal, wanted(BlueGreen()))).phase == "live"


@pytest.mark.parametrize("verb", ["promote", "abort"])
async def test_there_is_nothing_to_decide_without_a_deployment(verb: Verb, tmp_path: Path, journal: Journal) -> None:
    target = await served(tmp_path)
    with pytest.raises(UsageError, match="no deployment of production is going on"):
        await verbs.decide(target, journal, "production", verb, RULES)
    await deployed(target, journal, wanted(BlueGreen(), keep_s=300))
    with pytest.raises(UsageError):
        await verbs.decide(target, journal, "production", verb, RULES)


async def test_a_request_about_an_earlier_deployment_or_step_is_not_followed(tmp_path: Path, journal: Journal) -> None:
    target = await served(tmp_path)
    held = await deployed(target, journal, wanted(BlueGreen(person=True)))
    journal.ask(Request(id="another", at=held.at, verb="promote"))
    assert journal.asked(held) is None
    journal.ask(Request(id=held.id, at=held.at + 1, verb="promote"))
    assert journal.asked(held) is None
    journal.ask(Request(id=held.id, at=held.at, verb="promote"))
    assert journal.asked(held) == "promote"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "another"}', '{"format": "vllm-ci/deployment/v1"}'])
async def test_a_journal_that_cannot_be_read_is_said(content: str, tmp_path: Path, journal: Journal) -> None:
    (tmp_path / "deployment.json").write_text(content)
    with pytest.raises(ErroredError, match=r"deployment\.json"):
        journal.read()


async def test_a_journal_that_cannot_be_written_ends_the_command_and_what_serves_goes_on(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = await served(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ErroredError, match="No space left on device"):
        await deployed(target, journal, wanted(BlueGreen()))
    assert not list(tmp_path.glob(".deployment*"))
    await assert_serves(target)


async def test_the_journal_tells_how_requests_were_shared_over_time(tmp_path: Path, journal: Journal) -> None:
    target = await served(tmp_path)
    await deployed(target, journal, wanted(STRATEGIES["canary"]))
    found = json.loads((tmp_path / "deployment.json").read_text())
    shares = [each["weights"].get(NEW.name, 0) for each in found["happened"] if each["weights"]]
    assert shares == [0, 5, 50, 100, 100]
    assert (await target.current()).route == Route(weights={NEW.name: 100})
