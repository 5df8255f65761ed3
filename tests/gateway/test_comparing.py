"""Both answers to copied requests are recorded by the gateway, away from the users' way."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio
import httpx
import pytest

from standin.deployment import Place, revision
from standin.gateway import ASK, reached
from vllm_ci.deploy.comparison import Pair
from vllm_ci.deploy.target import Route
from vllm_ci.targets.envoy.tap import TAP
from vllm_ci.targets.local import tapping
from vllm_ci.targets.local.target import LocalTarget

pytestmark = [pytest.mark.anyio, pytest.mark.gateway]


async def shadowed(place: Place, percent: int, mode: str = "wrong") -> LocalTarget:
    a, b = revision("a"), revision("b", mode)
    target = place.target()
    for each in (a, b):
        await target.start(each, 1)
    await target.route(Route(weights={a.name: 100}, mirror=b.name, mirror_percent=percent))
    return target


async def asked(target: LocalTarget, count: int, **more: object) -> list[httpx.Response]:
    address = (await target.current()).address
    async with httpx.AsyncClient() as client:
        body, headers = {**ASK, "temperature": 0, **more}, {"x-vllm-ci-copy": "1"}
        return [await client.post(f"{address}/v1/completions", json=body, headers=headers) for _ in range(count)]


async def taken(more: Callable[[], tuple[Pair, ...]], count: int) -> list[Pair]:
    found: list[Pair] = []
    end = time.monotonic() + 20
    while len(found) < count and time.monotonic() < end:
        found.extend(more())
        await anyio.sleep(0.05)
    return found


async def test_both_answers_are_paired_by_the_id_of_their_request(place: Place) -> None:
    target = await shadowed(place, 100)
    with target.comparing() as more:
        await anyio.sleep(0.5)
        answered = await asked(target, 5, stream=True, max_tokens=4)
        pairs = await taken(more, 5)
    assert {each.headers["x-request-id"] for each in answered} == {each.request_id for each in pairs}
    assert all('"server": "a"' in each.text and "other" not in each.text for each in answered)
    assert {(each.agreed, each.tokens, each.greedy, each.cut, each.path) for each in pairs} == {
        (2, 4, True, False, "/v1/completions")
    }
    assert {(each.old.status, each.new.status, each.new.finish) for each in pairs} == {(200, 200, ("length",))}
    seen = [headers for method, _, headers in reached(place.seen) if method == "POST" and "x-request-id" in headers]
    assert sum("x-vllm-ci-copy" in each for each in seen) == 5, "only copies are marked"


async def test_only_copied_requests_are_recorded_and_slow_copies_hold_nobody_up(place: Place) -> None:
    target = await shadowed(place, 40, mode="slow")
    with target.comparing() as more:
        await anyio.sleep(0.5)
        begun = time.monotonic()
        answered = await asked(target, 40)
        took = time.monotonic() - begun
        await anyio.sleep(2)
        pairs = more()
    assert all(each.status_code == 200 for each in answered)
    assert took < 40 * 0.4, "a copy takes half a second"
    assert 4 <= len(pairs) <= 32
    assert all(each.new.latency_ms > 450 > each.old.latency_ms for each in pairs)


async def test_who_listens_after_a_listener_was_killed_gets_what_comes(place: Place) -> None:
    target = await shadowed(place, 100)
    folder = place.folder / "target" / "gateway"
    with tapping.connected(folder, []) as left:
        assert (
            tapping.asked(left, TAP, {"any_match": True}, (1024, 1024)).status == 200
        )  # it never reads, and its end is noticed by nobody until something is sent
    with target.comparing() as more:
        found: list[Pair] = []
        end = time.monotonic() + 30
        while not found and time.monotonic() < end:
            await asked(target, 1)
            await anyio.sleep(0.6)
            found.extend(more())
    assert found
    assert all(each.status_code == 200 for each in await asked(target, 2)), "nobody listens, and users are served"
