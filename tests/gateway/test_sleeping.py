"""A deployment whose servers sleep while nobody asks: they are woken, not started, and what does not wake is started anew."""

from __future__ import annotations

import signal
from pathlib import Path

import anyio
import httpx
import pytest

from gateway.test_scaling_to_zero import post
from standin.deployment import Place, revision
from standin.waker import NEVER, SCALE, WAITING, awake
from vllm_ci.deploy.target import Revision, Route
from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.gateway import GatewaySettings
from vllm_ci.targets.local import starts
from vllm_ci.targets.local.budget import Machine
from vllm_ci.targets.local.target import LocalTarget

pytestmark = [pytest.mark.anyio, pytest.mark.gateway]

SLEEPER = revision("a", "sleeper", sleeps=True, gpus=1)
ONE_GPU = Machine(memory_bytes=0, devices=1)


async def sleeping(folder: Path, given: Revision = SLEEPER) -> LocalTarget:
    """A release whose server sleeps."""
    target = Place(folder=folder, machine=ONE_GPU).target(GatewaySettings(waiting=WAITING))
    await target.start(given, 1)
    await target.route(Route(weights={given.name: 100}))
    assert await target.rest(lambda: False)
    return target


async def test_a_server_that_sleeps_is_woken_by_the_first_request_and_is_not_started_again(place: Place) -> None:
    target = await sleeping(place.folder)
    current = await target.current()
    assert current.asleep
    assert [each.state for each in current.replicas] == ["asleep"]
    assert current.ready(SLEEPER.name) == 0
    async with awake(target), httpx.AsyncClient() as client:
        for _ in range(3):
            answer = await post(client, target)
            assert (answer.status_code, answer.json()["choices"][0]["text"]) == (200, "a"), answer.text
    (replica,) = (await target.current()).replicas
    assert (replica.state, replica.restarts) == ("ready", 0)
    assert (await target.logs(replica.name)).count("INFO a starts") == 1
    assert starts.read(target.folder).succeeded == 1


async def test_it_sleeps_when_idle_and_wakes_again_and_again(place: Place) -> None:
    target = Place(folder=place.folder, machine=ONE_GPU).target(GatewaySettings(waiting=WAITING))
    await target.start(SLEEPER, 1)
    await target.route(Route(weights={SLEEPER.name: 100}))
    async with awake(target, SCALE), httpx.AsyncClient() as client:
        for _ in range(2):
            with anyio.fail_after(30):
                while [each.state for each in (await target.current()).replicas] != ["asleep"]:
                    await anyio.sleep(0.05)
            assert (await post(client, target)).status_code == 200
    (replica,) = (await target.current()).replicas
    assert (await target.logs(replica.name)).count("INFO a starts") == 1


@pytest.mark.parametrize("how", ["killed", "does not wake"])
async def test_a_server_that_does_not_wake_is_started_again(how: str, place: Place) -> None:
    given = revision("a", "sleepless", sleeps=True, gpus=1) if how == "does not wake" else SLEEPER
    target = await sleeping(place.folder, given)
    (kept,) = target.state().replicas.values()
    if how != "does not wake":
        kept.process.signal(signal.SIGKILL)
    async with awake(target), httpx.AsyncClient() as client:
        assert (await post(client, target)).status_code == 200
    (replica,) = (await target.current()).replicas
    assert (replica.state, replica.restarts) == ("ready", 1)


async def test_a_server_that_was_never_told_to_sleep_is_woken_too(place: Place) -> None:
    target = await sleeping(place.folder)
    (kept,) = target.state().replicas.values()
    async with httpx.AsyncClient() as client:  # what a waker leaves that was killed before it told the server
        assert (await client.post(f"http://127.0.0.1:{kept.port}/wake_up")).status_code == 200
        async with awake(target):
            assert (await post(client, target)).status_code == 200
    assert [each.restarts for each in (await target.current()).replicas] == [0]


async def test_a_server_without_sleep_mode_is_ended(place: Place) -> None:
    target = await sleeping(place.folder, revision("a", "", sleeps=True, gpus=1))
    assert (await target.current()).replicas == ()
    assert (await target.current()).asleep


async def test_a_server_that_sleeps_makes_room_for_another_release(place: Place) -> None:
    target, other = await sleeping(place.folder), revision("b", "", gpus=1)
    await target.start(other, 1)
    await target.route(Route(weights={other.name: 100}))
    await target.stop(SLEEPER.name)
    assert {each.revision: each.state for each in (await target.current()).replicas} == {other.name: "ready"}
    with pytest.raises(UsageError, match="do not fit on this machine"):
        await target.start(SLEEPER, 1)


async def test_a_waker_that_starts_later_does_not_wake_a_server_that_sleeps(place: Place) -> None:
    target = await sleeping(place.folder)
    async with awake(target, NEVER):
        await anyio.sleep(1.0)
        assert [each.state for each in (await target.current()).replicas] == ["asleep"]


async def test_stopping_ends_servers_that_sleep(place: Place) -> None:
    target = await sleeping(place.folder)
    (kept,) = target.state().replicas.values()
    await target.close()
    assert not kept.process.alive
