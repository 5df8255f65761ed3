"""What died is started again, whatever state a deployment is in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from standin.deploying import NEW, OLD, assert_serves, deployed, served, wanted
from vllm_ci.deploy import verbs
from vllm_ci.deploy.journal import Journal
from vllm_ci.deploy.strategy import BlueGreen, Canary, CanaryStep
from vllm_ci.domain.errors import ErroredError, FailedError, UsageError
from vllm_ci.targets.memory import Behaviour, MemoryTarget

pytestmark = pytest.mark.anyio


@pytest.fixture(name="journal")
def _journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


async def test_a_gateway_that_died_is_started_again_by_deploying_the_same_release(tmp_path: Path, journal: Journal) -> None:
    target = await served(tmp_path)
    target.change(down=True)
    with pytest.raises(ErroredError, match="cannot be reached"):
        await target.observe(seconds=1)
    assert (await deployed(target, journal, wanted(BlueGreen(), letter="a"))).phase == "live"
    assert not (await target.current()).down
    await assert_serves(target)


async def _all_die(target: MemoryTarget) -> None:
    """As when the machine is switched off."""
    replicas = target.state.replicas
    target.change(replicas={name: replace(each, state="failed") for name, each in replicas.items()}, down=True)


async def test_after_the_machine_was_switched_off_a_canary_goes_on_with_the_same_shares(
    tmp_path: Path, journal: Journal
) -> None:
    target = await served(tmp_path)
    plan = Canary(stages=(CanaryStep(weight=5, hold_s=0, person=True),))
    assert (await deployed(target, journal, wanted(plan))).phase == "held"
    held = journal.read()
    assert held is not None
    journal.write(replace(held, phase="forward"))  # the command is killed at this step
    await _all_die(target)
    assert (await deployed(target, journal, wanted(plan))).phase == "held"
    assert (await target.current()).route.weights == {OLD.name: 95, NEW.name: 5}
    await assert_serves(target)


async def test_an_old_release_that_does_not_start_again_does_not_keep_the_new_one_from_serving(
    tmp_path: Path, journal: Journal
) -> None:
    target = await served(tmp_path)
    plan = Canary(stages=(CanaryStep(weight=5, hold_s=0, person=True),))
    held = await deployed(target, journal, wanted(plan))
    journal.write(replace(held, phase="forward"))
    await _all_die(target)
    target.change(faults={OLD.name: Behaviour(never_ready=True)})
    done = await deployed(target, journal, wanted(plan))
    assert (await target.current()).route.weights == {NEW.name: 100}
    assert any("died and do not start again" in each.text for each in done.happened)
    await assert_serves(target)


async def test_what_died_while_a_person_has_to_decide_is_started_again(tmp_path: Path, journal: Journal) -> None:
    target = await served(tmp_path)
    held = await deployed(target, journal, wanted(Canary(stages=(CanaryStep(weight=5, hold_s=0, person=True),))))
    before = await target.current()
    await _all_die(target)
    await verbs.restart(target, journal, "production")
    after = await target.current()
    assert (after.route, after.down) == (before.route, False)
    assert {name: after.ready(name) for name in after.route.revisions} == {OLD.name: 3, NEW.name: 1}
    assert journal.read() == held


async def test_what_was_removed_by_somebody_else_is_said(tmp_path: Path, journal: Journal) -> None:
    target = await served(tmp_path)
    target.change(replicas={}, revisions={}, wanted={})
    with pytest.raises(UsageError, match="gets requests and is not there any more"):
        await verbs.restart(target, journal, "production")


async def test_a_canary_that_does_not_start_again_gets_no_requests_and_the_old_release_does(
    tmp_path: Path, journal: Journal
) -> None:
    target = await served(tmp_path)
    await deployed(target, journal, wanted(Canary(stages=(CanaryStep(weight=5, hold_s=0, person=True),))))
    await _all_die(target)
    target.change(faults={NEW.name: Behaviour(never_ready=True)})
    with pytest.raises(FailedError, match="was not ready"):
        await verbs.restart(target, journal, "production")
    assert (await target.current()).route.weights == {OLD.name: 100}
    await assert_serves(target)
