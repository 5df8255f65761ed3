"""What every target promises (vllm_ci.deploy.target)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from contract.target_fixtures import TARGETS, Bed
from vllm_ci.deploy.target import REVISION_HEADER, Current, Route
from vllm_ci.domain.errors import FailedError, UsageError

pytestmark = pytest.mark.anyio


@pytest.fixture(params=list(TARGETS))
async def bed(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bed]:
    with anyio.fail_after(250):
        async with TARGETS[request.param](tmp_path / "target") as opened:
            yield opened


async def served(bed: Bed, letter: str, replicas: int = 1) -> str:
    """Start a revision and send all requests to it."""
    revision = bed.revision(letter)
    await bed.target.start(revision, replicas)
    await bed.target.route(Route(weights={revision.name: 100}))
    return revision.name


async def test_nothing_runs_before_something_is_started(bed: Bed) -> None:
    found = await bed.target.current()
    assert found.replicas == ()
    assert not found.route.revisions


async def test_started_replicas_are_ready_and_not_reached_by_anybody(bed: Bed) -> None:
    revision = bed.revision("a")
    await bed.target.start(revision, 2)
    found = await bed.target.current()
    assert found.ready(revision.name) == 2
    assert found.wanted == {revision.name: 2}
    assert found.revisions[revision.name] == revision
    assert found.address
    assert not found.route.revisions


async def test_starting_again_changes_nothing(bed: Bed) -> None:
    revision = bed.revision("a")
    await bed.target.start(revision, 2)
    before = {each.name for each in (await bed.target.current()).replicas}
    await bed.target.start(revision, 2)
    assert {each.name for each in (await bed.target.current()).replicas} == before


async def test_starting_fewer_ends_the_surplus_and_keeps_the_rest(bed: Bed) -> None:
    name = await served(bed, "a", 3)
    before = {each.name for each in (await bed.target.current()).replicas}
    await bed.target.start(bed.revision("a"), 1)
    found = await bed.target.current()
    assert found.ready(name) == 1
    assert {each.name for each in found.replicas} < before


async def test_a_route_is_in_effect_when_it_returns(bed: Bed) -> None:
    name = await served(bed, "a")
    assert (await bed.target.current()).route == Route(weights={name: 100})
    if bed.ask:
        assert await bed.ask({}) == name


async def test_a_route_that_is_set_again_changes_nothing(bed: Bed) -> None:
    name = await served(bed, "a")
    await bed.target.route(Route(weights={name: 100}))
    assert (await bed.target.current()).route.weights == {name: 100}


async def test_a_route_to_a_revision_that_is_not_ready_is_refused_and_the_old_one_stays(bed: Bed) -> None:
    name = await served(bed, "a")
    with pytest.raises(FailedError):
        await bed.target.route(Route(weights={bed.revision("b").name: 100}))
    with pytest.raises(FailedError):
        await bed.target.route(Route(weights={name: 100}, headers={"preview": bed.revision("b").name}))
    assert (await bed.target.current()).route == Route(weights={name: 100})


async def test_requests_go_to_the_revision_with_all_the_weight(bed: Bed) -> None:
    if bed.ask is None:
        pytest.skip("this bed cannot send requests")
    first = await served(bed, "a")
    assert {await bed.ask({}) for _ in range(5)} == {first}
    second = await served(bed, "b")
    assert {await bed.ask({}) for _ in range(5)} == {second}


async def test_a_header_reaches_the_preview_and_nobody_else_does(bed: Bed) -> None:
    if not bed.target.capabilities.headers:
        pytest.skip("it does not choose a revision by a header")
    name, preview = await served(bed, "a"), bed.revision("b")
    await bed.target.start(preview, 1)
    await bed.target.route(Route(weights={name: 100}, headers={"preview": preview.name}))
    if bed.ask:
        assert await bed.ask({REVISION_HEADER: "preview"}) == preview.name
        assert {await bed.ask({}) for _ in range(5)} == {name}


async def test_a_server_that_never_gets_ready_is_said_and_the_route_stays(bed: Bed) -> None:
    name = await served(bed, "a")
    with pytest.raises(FailedError):
        await bed.target.start(bed.broken, 1)
    found = await bed.target.current()
    assert found.ready(name) == 1
    assert found.ready(bed.broken.name) == 0
    assert found.route == Route(weights={name: 100})


async def test_a_revision_that_the_route_names_is_neither_drained_nor_stopped(bed: Bed) -> None:
    name = await served(bed, "a")
    with pytest.raises(UsageError):
        await bed.target.drain(name, deadline_s=1)
    with pytest.raises(UsageError):
        await bed.target.stop(name)
    assert (await bed.target.current()).ready(name) == 1


async def test_an_idle_revision_is_drained_at_once_and_stopped(bed: Bed) -> None:
    name = await served(bed, "a")
    await bed.target.start(bed.revision("b"), 1)
    other = bed.revision("b").name
    drained = await bed.target.drain(other, deadline_s=30)
    assert drained.open == 0
    await bed.target.stop(other)
    found = await bed.target.current()
    assert not [each for each in found.replicas if each.revision == other]
    assert found.wanted.get(other, 0) == 0
    assert found.ready(name) == 1


async def test_stopping_what_does_not_run_changes_nothing(bed: Bed) -> None:
    name = await served(bed, "a")
    await bed.target.stop(bed.revision("b").name)
    await bed.target.stop(bed.revision("b").name)
    assert (await bed.target.current()).ready(name) == 1


async def test_another_process_sees_and_changes_the_same_deployment(bed: Bed) -> None:
    name = await served(bed, "a")
    async with bed.again() as other:
        assert (await other.current()).route == Route(weights={name: 100})
        assert (await other.current()).revisions[name] == bed.revision("a")
        await other.start(bed.revision("b"), 1)
        await other.route(Route(weights={bed.revision("b").name: 100}))
    assert (await bed.target.current()).route.weights == {bed.revision("b").name: 100}


async def test_an_observation_tells_of_the_revisions_that_serve(bed: Bed) -> None:
    name = await served(bed, "a")
    if bed.ask:
        await bed.ask({})
    found = await bed.target.observe(seconds=1)
    assert found.seconds > 0
    assert set(found.samples) <= {name}
    assert all(0 <= each.errors <= each.requests for each in found.samples.values())


async def test_logs_are_those_of_a_replica_that_exists(bed: Bed) -> None:
    await served(bed, "a")
    replica = (await bed.target.current()).replicas[0]
    assert isinstance(await bed.target.logs(replica.name, lines=5), str)
    with pytest.raises(UsageError):
        await bed.target.logs("nobody")


async def test_after_closing_nothing_runs(bed: Bed) -> None:
    await served(bed, "a")
    await bed.target.close()
    found = await bed.target.current()
    assert found == Current(address=found.address, route=Route())
    await bed.target.close()
