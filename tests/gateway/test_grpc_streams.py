"""Whatever changes behind the gateway, generations by gRPC go on to their end, and a bad release is seen by its statuses."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import grpc
import pytest

from gateway.test_grpc import asking, done, over_grpc, settings
from standin.deploying import release
from standin.deployment import Place
from standin.grpc_streams import Client, Generated
from vllm_ci.config.deploy import ChecksConfig
from vllm_ci.deploy import verbs
from vllm_ci.deploy.analysis import Analysis, Outcome
from vllm_ci.deploy.condition import parse
from vllm_ci.deploy.deployment import Deployment
from vllm_ci.deploy.journal import Journal
from vllm_ci.deploy.plan import PREVIEW
from vllm_ci.deploy.rolling import Rolling
from vllm_ci.deploy.rollout import Rollout
from vllm_ci.deploy.rules import Rules
from vllm_ci.deploy.strategy import BlueGreen, Canary, CanaryStep, Shadow, Strategy
from vllm_ci.deploy.target import Current, Observation, Revision, Route
from vllm_ci.deploy.verbs import Wanted
from vllm_ci.targets.checks import Runner
from vllm_ci.targets.local.target import LocalTarget

pytestmark = [pytest.mark.anyio, pytest.mark.gateway]

STREAMS = 40
TOKENS = 120
LONG = 360
# What a client makes of a stream that is reset: it never has the status of a whole answer.
BROKEN = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE}
A, B = over_grpc("a"), over_grpc("b")


async def serving(place: Place, *revisions: Revision, replicas: int = 1) -> LocalTarget:
    """The first of these serves; the others are ready."""
    target = place.target(settings())
    for each in revisions:
        await target.start(each, replicas)
    await target.route(Route(weights={revisions[0].name: 100}))
    return target


async def all_open(target: LocalTarget, name: str, count: int = STREAMS) -> None:
    with anyio.fail_after(120):
        while await target._configuration.admin.open_requests(name) < count:
            await anyio.sleep(0.05)


async def test_streams_are_whole_while_shares_change_many_times(place: Place) -> None:
    target = await serving(place, A, B)
    found: list[Generated] = []
    short: list[Generated] = []
    stop = anyio.Event()
    async with asking(target) as asked, anyio.create_task_group() as group:
        group.start_soon(asked.many, STREAMS, LONG, found)
        group.start_soon(asked.steady, short, stop)
        await all_open(target, A.name)
        changes = 0  # while all of them are open; 60 where the machine is not busy
        while changes < 60:
            share = (changes * 37) % 101
            await target.route(Route(weights={A.name: share, B.name: 100 - share}))
            if await target._configuration.admin.open_requests(A.name) < STREAMS:
                break
            changes += 1
        stop.set()
    assert changes >= 10
    assert len(found) == STREAMS
    assert [each for each in found if not each.whole(LONG)] == []
    assert [each for each in short if not each.whole(2)] == []
    assert {name for each in short for name in each.servers} == {"a", "b"}


async def test_streams_of_a_release_that_another_replaced_are_whole_and_drained(place: Place) -> None:
    target = await serving(place, A, B, replicas=2)
    found: list[Generated] = []
    short: list[Generated] = []
    stop = anyio.Event()
    async with asking(target) as asked, anyio.create_task_group() as group:
        group.start_soon(asked.many, STREAMS, TOKENS, found)
        await all_open(target, A.name)
        group.start_soon(asked.steady, short, stop)
        await target.route(Route(weights={B.name: 100}))
        early = await target.drain(A.name, deadline_s=0.5)
        assert early.open == STREAMS
        await target.route(Route(weights={A.name: 100}))  # going back while the old one is warm
        await target.route(Route(weights={B.name: 100}))
        assert (await target.drain(A.name, deadline_s=60)).open == 0
        await target.stop(A.name)
        stop.set()
    assert len(found) == STREAMS
    assert [each for each in [*found, *short] if not each.whole(TOKENS if each in found else 2)] == []
    assert {each.revision for each in (await target.current()).replicas} == {B.name}


async def test_streams_are_whole_while_replicas_are_taken_away(place: Place) -> None:
    target = await serving(place, A, replicas=3)
    found: list[Generated] = []
    async with asking(target) as asked, anyio.create_task_group() as group:
        group.start_soon(asked.many, STREAMS, TOKENS, found)
        await all_open(target, A.name)
        await target.start(A, 1)
        assert len((await target.current()).replicas) == 1
    assert [each for each in found if not each.whole(TOKENS)] == []


async def test_a_replica_that_is_killed_breaks_its_own_streams_with_a_status_and_gets_no_more_requests(place: Place) -> None:
    target = await serving(place, A, replicas=2)
    found: list[Generated] = []
    async with asking(target) as asked:
        async with anyio.create_task_group() as group:
            group.start_soon(asked.many, STREAMS, TOKENS, found)
            await all_open(target, A.name)
            os.kill(int((await target.logs(f"{A.name}-0")).split()[-1]), signal.SIGKILL)
        broken = [each for each in found if not each.whole(TOKENS)]
        assert 0 < len(broken) < STREAMS
        assert {each.code for each in broken} <= BROKEN
        assert all(each.places == list(range(len(each.places))) and not each.finished for each in broken), "none looks whole"
        for _ in range(20):
            assert (await done(asked.generate, 2)).whole(2)
        await place.target().start(A, 2)
        assert (await target.current()).ready(A.name) == 2
        assert (await done(asked.generate, 2)).whole(2)


async def test_a_request_that_kills_servers_kills_two_at_most(place: Place) -> None:
    fragile = over_grpc("a", "fragile")
    target = await serving(place, fragile, replicas=3)
    async with asking(target) as asked:
        assert (await done(asked.generate, size=1)).code is grpc.StatusCode.UNAVAILABLE
        for _ in range(5):
            assert (await done(asked.generate)).whole(1)
    assert (await target.current()).ready(fragile.name) == 1


async def test_the_gateway_that_died_is_started_again_with_the_same_port(place: Place) -> None:
    target = await serving(place, A)
    before, envoy = await target.current(), target._store.load().envoy
    assert envoy is not None
    os.kill(envoy.pid, signal.SIGKILL)
    with anyio.fail_after(20):
        while envoy.alive:
            await anyio.sleep(0.02)
    await place.target().start(A, 1)
    assert await target.current() == before
    async with asking(target) as asked:
        assert (await done(asked.generate)).whole(1)


async def test_a_header_reaches_the_preview_and_others_do_not(place: Place) -> None:
    target = await serving(place, A, B)
    await target.route(Route(weights={A.name: 100}, headers={PREVIEW: B.name}))
    async with asking(target) as asked:
        preview = (("x-vllm-ci-revision", PREVIEW),)
        assert (await done(asked.generate, metadata=preview)).servers == {"b"}
        assert {name for _ in range(5) for name in (await done(asked.generate)).servers} == {"a"}


async def observed(target: LocalTarget, work: Callable[[Client], Any], seconds: float = 4.0) -> Observation:
    seen: list[Observation] = []

    async def watch() -> None:
        seen.append(await target.observe(seconds=seconds))

    async with asking(target) as asked, anyio.create_task_group() as group:
        group.start_soon(watch)
        await anyio.sleep(0.3)
        await done(work, asked)
    return seen[0]


async def test_errors_are_counted_by_their_status_and_not_by_that_of_http(place: Place) -> None:
    bad = over_grpc("b", "broken")
    target = await serving(place, A, bad)
    await target.route(Route(weights={A.name: 50, bad.name: 50}))

    def work(asked: Client) -> None:
        for _ in range(30):
            asked.generate()
        for _ in range(6):
            assert asked.call("Embed")[0] is grpc.StatusCode.INVALID_ARGUMENT, "a mistake of the client"

    seen = (await observed(target, work)).samples
    good, broken = seen[A.name], seen[bad.name]
    assert good.requests + broken.requests == 36
    assert good.errors == 0
    assert 0 < broken.errors <= broken.requests * 0.4
    assert 40 < good.ttft_ms["0.5"] < 500
    assert set(good.values) == {"memory_bytes"}


async def test_streams_that_clients_leave_are_no_errors_and_those_that_break_are(place: Place) -> None:
    target = await serving(place, A)

    def leaves(asked: Client) -> None:
        asked.generate(TOKENS, leaves_after=3)

    sample = (await observed(target, leaves, 2.0)).samples[A.name]
    assert (sample.requests, sample.errors) == (1, 0)

    def breaks(asked: Client) -> None:
        assert asked.generate(TOKENS, during=lambda: kill(target)).code in BROKEN

    sample = (await observed(target, breaks, 2.0)).samples[A.name]
    assert (sample.requests, sample.errors) == (1, 1)


def kill(target: LocalTarget) -> None:
    os.kill(int(target._fleet.log(f"{A.name}-0", 5).split()[-1]), signal.SIGKILL)


async def test_copies_are_answered_and_nobody_waits_for_them(place: Place) -> None:
    bad = over_grpc("b", "broken")
    target = await serving(place, A, bad)
    await target.route(Route(weights={A.name: 100}, mirror=bad.name, mirror_percent=100))

    def work(asked: Client) -> None:
        for _ in range(15):
            assert asked.generate(2).servers == {"a"}

    seen = (await observed(target, work, 3.0)).samples
    assert (seen[A.name].requests, seen[A.name].errors) == (15, 0)
    assert seen[bad.name].requests == 15
    assert seen[bad.name].errors == 3


async def deployed(target: LocalTarget, folder: Path, new: Revision, strategy: Strategy, replicas: int = 1) -> Deployment:
    """Have a revision take the place of the one that serves, as the command does."""
    journal = Journal(folder / "journal")
    old, fresh = release("a"), release("b")
    runner = Runner(config=ChecksConfig(), folder=folder, model="m")
    what = Wanted(channel="c", release=fresh, revision=new, replicas=replicas, strategy=strategy, known=(old, fresh))
    made = await verbs.begun(target, journal, what)
    assert made is not None
    analysis = Analysis(conditions=(parse("errors <= 5%"),), interval_s=1.0, min_requests=5)
    return await Rollout(target, journal, made, Rules(analysis=analysis, check=runner.check)).run()


STRATEGIES: dict[str, Strategy] = {
    "blue-green": BlueGreen(watch_s=2),
    "canary": Canary(stages=(CanaryStep(weight=20, hold_s=2), CanaryStep(weight=60, hold_s=2))),
    "rolling": Rolling(max_surge=1, hold_s=2),
    "shadow": Shadow(percent=100, hold_s=2),
}


@pytest.mark.parametrize("name", STRATEGIES)
async def test_a_release_takes_the_place_of_another_without_a_broken_stream(name: str, place: Place) -> None:
    target = await serving(place, A, replicas=2)
    found: list[Generated] = []
    stop = anyio.Event()
    async with asking(target) as asked, anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(asked.steady, found, stop)
        ended = await deployed(target, place.folder, B, STRATEGIES[name], replicas=2)
        stop.set()
    assert ended.phase == "live", ended.reason
    assert (await target.current()).route.weights == {B.name: 100}
    assert [each for each in found if not each.whole(2)] == []


@pytest.mark.parametrize("name", STRATEGIES)
async def test_a_release_that_fails_every_fifth_request_goes_back_by_itself(name: str, place: Place) -> None:
    bad = over_grpc("b", "broken")
    target = await serving(place, A, replicas=2)
    found: list[Generated] = []
    stop = anyio.Event()
    async with asking(target) as asked, anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(asked.steady, found, stop)
        ended = await deployed(target, place.folder, bad, STRATEGIES[name], replicas=2)
        stop.set()
    assert ended.phase == "returned"
    assert "errors" in ended.reason
    assert (await target.current()).route.weights == {A.name: 100}
    harmed = [each for each in found if not each.whole(2)]
    assert {each.code for each in harmed} <= {grpc.StatusCode.INTERNAL}
    assert bool(harmed) == (name != "shadow")


async def test_checks_ask_for_a_generation_through_the_gateway(place: Place) -> None:
    target = place.target(settings(api_keys=True))
    for each in (A, over_grpc("b", "broken")):
        await target.start(each, 1)
    await target.route(Route(weights={A.name: 100}, headers={PREVIEW: over_grpc("b", "broken").name}))
    current = await target.current()
    command = ["sh", "-c", 'test "$VLLM_CI_GRPC" = "$1" && test -z "$VLLM_CI_URL"', "sh"]
    server = next(each.url for each in current.replicas if each.revision == A.name)
    config = ChecksConfig(before=[[*command, server]], after=[[*command, current.checks]])
    runner = Runner(config=config, folder=place.folder, model="m")
    for kind in ("before", "after"):
        checked = await runner.check(kind, current, A.name)
        assert checked.outcome is Outcome.SUCCESSFUL, checked.reason
    found = [(await runner.check("before", current, A.name)) for _ in range(5)]
    assert sum(each.reason.startswith("no generation came through the gateway: INTERNAL") for each in found) == 1
    await target._gateway.end(target._store.load().envoy)
    checked = await runner.check("after", current, A.name)
    assert checked.reason.startswith("no generation came through the gateway: UNAVAILABLE")
    nothing = Current(checks=current.checks)
    assert (await runner.check("after", nothing, A.name)).reason.endswith("no server is ready")
