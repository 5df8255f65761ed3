"""A command that is killed while requests begin to wait for a server, or end to: the waker finishes what it left."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from gateway.test_scaling_to_zero import A, B, asleep, post, until_asleep
from standin.deployment import Place, revision
from standin.waker import SCALE, awake
from vllm_ci.deploy.target import Route
from vllm_ci.targets.local.configuration import Configuration
from vllm_ci.targets.local.state import Store
from vllm_ci.targets.local.target import LocalTarget

pytestmark = [pytest.mark.anyio, pytest.mark.gateway]

C = revision("c")


class Killed(BaseException):
    """The process ends here."""


async def routed_and_killed(target: LocalTarget, route: Route) -> None:
    """A command that is killed when the gateway has the new route, and nothing else is written down."""
    turn = Configuration.turn

    async def killed(*given: Any, **more: Any) -> None:
        await turn(*given, **more)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Configuration, "turn", killed)
        with pytest.raises(Killed):
            await target.route(route)


async def test_requests_of_a_release_without_servers_wake_one_though_its_command_was_killed(place: Place) -> None:
    target = await asleep(place)
    await target.start(B, 1)
    await target.route(Route(weights={B.name: 100}))
    await target.stop(A.name)
    await routed_and_killed(target, Route(weights={A.name: 100}))
    async with awake(target), httpx.AsyncClient() as client:
        answer = await post(client, target)
    assert (answer.status_code, answer.json()["choices"][0]["text"]) == (200, "a"), answer.text


async def test_a_release_whose_command_was_killed_after_it_took_the_requests_is_scaled_to_zero_later(place: Place) -> None:
    target = await asleep(place)
    await target.start(B, 1)
    await routed_and_killed(target, Route(weights={B.name: 100}))
    assert (await target.current()).asleep
    async with awake(target, SCALE), httpx.AsyncClient() as client:
        assert (await post(client, target)).json()["choices"][0]["text"] == "b"
        await until_asleep(target)
        assert (await post(client, target)).json()["choices"][0]["text"] == "b"


async def test_a_route_that_changes_while_an_old_one_is_completed_stays(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    target = await asleep(place)
    await target.start(B, 1)
    await target.start(C, 1)
    await routed_and_killed(target, Route(weights={B.name: 100}))
    lock = Store.lock

    @asynccontextmanager
    async def later(store: Store) -> AsyncIterator[None]:
        monkeypatch.undo()
        await target.route(Route(weights={C.name: 100}))
        async with lock(store):
            yield

    monkeypatch.setattr(Store, "lock", later)
    await target.complete_route()
    assert (await target.current()).route.weights == {C.name: 100}
    assert not (await target.current()).asleep
