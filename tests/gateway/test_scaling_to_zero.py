"""A deployment without servers: requests wait at the gateway, wake one, and none is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from standin.deployment import Place, revision
from standin.gateway import ASK
from standin.streams import many, stream
from standin.waker import SCALE, WAITING, awake
from vllm_ci.deploy import verbs
from vllm_ci.deploy.analysis import Analysis
from vllm_ci.deploy.journal import Journal
from vllm_ci.deploy.rollout import Rollout
from vllm_ci.deploy.rules import Rules
from vllm_ci.deploy.strategy import BlueGreen, Canary, CanaryStep, Strategy
from vllm_ci.deploy.target import Revision, Route
from vllm_ci.deploy.verbs import Wanted
from vllm_ci.domain.gateway import GatewaySettings, Waiting
from vllm_ci.engines import detached
from vllm_ci.release.record import Release
from vllm_ci.targets.local import starts
from vllm_ci.targets.local.launcher import Launch
from vllm_ci.targets.local.target import LocalTarget

pytestmark = [pytest.mark.anyio, pytest.mark.gateway]

A, B = revision("a"), revision("b")
WAKING = Path(__file__).parents[1] / "standin" / "waking.py"


async def asleep(place: Place, given: Revision = A, waiting: Waiting = WAITING) -> LocalTarget:
    """A release that serves and was scaled to zero."""
    target = place.target(GatewaySettings(waiting=waiting))
    await target.start(given, 1)
    await target.route(Route(weights={given.name: 100}))
    assert await target.rest(lambda: False)
    assert (await target.current()).asleep
    assert (await target.current()).replicas == ()
    return target


async def post(client: httpx.AsyncClient, target: LocalTarget) -> httpx.Response:
    return await client.post(f"{(await target.current()).address}/v1/completions", json=ASK, timeout=90)


async def until_asleep(target: LocalTarget) -> None:
    with anyio.fail_after(30):
        while not (await target.current()).asleep or (await target.current()).replicas:
            await anyio.sleep(0.05)


async def test_fifty_requests_at_once_wake_one_server_and_all_are_answered(place: Place) -> None:
    target = await asleep(place)
    async with awake(target), many() as client:
        address = (await target.current()).address
        found = []

        async def one(number: int) -> None:
            if number % 2:
                found.append(await stream(client, address, tokens=5, interval_s=0.05))
            else:
                async with client.post(f"{address}/v1/completions", json=ASK) as answer:
                    assert answer.status == 200, await answer.text()

        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(one, number)
        assert len(found) == 25
        assert all(each.whole(5) for each in found)
        kept = starts.read(target.folder)
        assert (kept.succeeded, kept.failed, kept.refused) == (1, 0, 0)
        assert [each.restarts for each in (await target.current()).replicas] == [0]
        last = kept.last
        assert last is not None
        assert 1 < last.waited <= 50
        assert 0 < (last.process_s or 0) <= (last.ready_s or 0) <= (last.routed_s or 0)
        with anyio.fail_after(10):
            while (again := starts.read(target.folder).last) is None or again.first_byte_s is None:
                await anyio.sleep(0.1)
        assert again.first_byte_s >= (last.ready_s or 0) - 0.1
        log = await target.logs(f"{A.name}-0")
        assert log.count("INFO a starts") == 1


async def test_requests_beyond_the_queue_are_refused_at_once_and_those_in_it_are_answered(place: Place) -> None:
    few = Waiting(queue=2, wait_s=60)
    target, held = await asleep(place, waiting=few), [True]
    async with awake(target, waiting=few, going_back=lambda: held[0]), httpx.AsyncClient() as client:
        answers: list[httpx.Response] = []

        async def one() -> None:
            answers.append(await post(client, target))

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(one)
            with anyio.fail_after(20):
                while len(answers) < 3:
                    await anyio.sleep(0.02)
            assert [each.status_code for each in answers] == [503] * 3
            assert {each.headers["retry-after"] for each in answers} == {"10"}
            assert "too many requests wait" in answers[0].json()["error"]["message"]
            unknown = await client.get(f"{(await target.current()).address}/admin")
            assert unknown.status_code == 404, "whoever asks for what is not served does not wait"
            held[0] = False
        assert [each.status_code for each in answers[3:]] == [200] * 2


async def test_a_request_waits_no_longer_than_is_configured(place: Place) -> None:
    short = Waiting(queue=5, wait_s=0.7)
    target = await asleep(place, waiting=short)
    async with awake(target, waiting=short, going_back=lambda: True), httpx.AsyncClient() as client:
        answer = await post(client, target)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert "no server was ready within 0.7 s" in answer.json()["error"]["message"]
    assert 0.6 < answer.elapsed.total_seconds() < 5


async def test_a_server_that_does_not_start_fails_those_that_wait_and_is_not_started_for_each_request(place: Place) -> None:
    target = await asleep(place)
    launch, broken = target.launcher.launch, [True]

    async def launched(*args: Any, **more: Any) -> Launch:
        found = await launch(*args, **more)
        return replace(found, argv=(*found.argv, "dies")) if broken[0] else found

    object.__setattr__(target.launcher, "launch", launched)
    moment = [1000.0]
    async with awake(target, clock=lambda: moment[0]), httpx.AsyncClient() as client:
        first = await post(client, target)
        again = await post(client, target)
        assert (first.status_code, again.status_code) == (503, 503)
        assert first.headers["retry-after"] == again.headers["retry-after"] == "10"
        assert "did not start" in first.json()["error"]["message"]
        found = starts.read(target.folder)
        assert (found.failed, found.succeeded) == (1, 0)
        (failed,) = (await target.current()).replicas
        assert failed.state == "failed"
        assert "CUDA out of memory" in await target.logs(failed.name)
        assert (await target.current()).asleep
        broken[0] = False
        moment[0] += 11
        assert (await post(client, target)).status_code == 200
    assert (starts.read(target.folder).failures, starts.read(target.folder).succeeded) == (0, 1)


async def test_a_deployment_that_is_used_now_and_then_goes_to_zero_and_back_and_loses_nothing(place: Place) -> None:
    target = place.target(GatewaySettings(waiting=WAITING))
    await target.start(A, 1)
    await target.route(Route(weights={A.name: 100}))
    rnd = random.Random(1)
    async with awake(target, SCALE), httpx.AsyncClient() as client:
        for _ in range(2):
            await until_asleep(target)
            await anyio.sleep(rnd.random() * 0.3)
            for _ in range(3):
                answer = await post(client, target)
                assert (answer.status_code, answer.json()["choices"][0]["text"]) == (200, "a"), answer.text
                await anyio.sleep(rnd.uniform(0.1, 0.7))
        ports = target.state().ports
        assert ports is not None
        metrics = await client.get(f"http://127.0.0.1:{ports.metrics}/metrics/scaling")
    found = starts.read(target.folder)
    assert found.succeeded == 2
    assert found.rested in (2, 3)
    assert "vllm_ci_starts_total 2" in metrics.text
    assert 'vllm_ci_start_seconds{phase="ready"}' in metrics.text


async def test_an_open_stream_and_a_body_that_still_arrives_keep_the_server(place: Place) -> None:
    target = place.target(GatewaySettings(waiting=WAITING))
    await target.start(A, 1)
    await target.route(Route(weights={A.name: 100}))
    body = json.dumps(ASK).encode()

    async def slowly() -> AsyncIterator[bytes]:
        yield body[:5]
        assert not await target.rest(lambda: False)
        yield body[5:]

    async with httpx.AsyncClient() as client:
        address = (await target.current()).address
        assert (await client.post(f"{address}/v1/completions", content=slowly())).status_code == 200
    assert not await target.rest(lambda: True), "a request waits"
    assert not (await target.current()).asleep
    assert await target.rest(lambda: False)


async def test_requests_that_wait_while_a_channel_goes_back_are_answered_by_what_it_goes_back_to(place: Place) -> None:
    target = await asleep(place)
    async with awake(target, going_back=lambda: True), httpx.AsyncClient() as client:
        answers: list[httpx.Response] = []

        async def one() -> None:
            answers.append(await post(client, target))

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(one)
            await anyio.sleep(0.5)
            assert answers == []
            await target.start(B, 1)
            await target.route(Route(weights={B.name: 100}))
        assert [(each.status_code, each.json()["choices"][0]["text"]) for each in answers] == [(200, "b")] * 5
    assert not (await target.current()).asleep


async def test_a_start_that_comes_after_the_requests_went_to_another_release_starts_nothing(place: Place) -> None:
    target = await asleep(place)
    await target.start(B, 1)
    await target.route(Route(weights={B.name: 100}))
    await target.wake(A, 1)
    current = await target.current()
    assert [each.revision for each in current.replicas] == [B.name]
    assert not current.wanted.get(A.name)


async def test_a_server_that_gets_ready_after_the_requests_went_to_another_release_gets_none(place: Place) -> None:
    late = revision("a", "late")
    target = await asleep(place, late)
    await target.start(B, 1)
    async with anyio.create_task_group() as group:
        group.start_soon(target.wake, late, 1)
        with anyio.fail_after(20):
            while not target.state().of(late.name):
                await anyio.sleep(0.01)
        await target.route(Route(weights={B.name: 100}))
    assert [(each.revision, each.state) for each in (await target.current()).replicas] == [
        (late.name, "draining"),
        (B.name, "ready"),
    ]
    await target.stop(late.name)
    assert [each.revision for each in (await target.current()).replicas] == [B.name]


async def test_a_route_that_comes_when_a_server_has_just_become_ready_keeps_that_server(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, b = await asleep(place), revision("b")
    await target.start(b, 1)

    async def killed_before(*_: object) -> None:
        """As if the waker had ended before it could say that requests do not wait any more."""

    with monkeypatch.context() as patch:
        patch.setattr(target, "_answers", killed_before)
        await target.wake(A, 1)
    assert (await target.current()).asleep
    await target.route(Route(weights={A.name: 100}, headers={"preview": b.name}))
    assert not (await target.current()).asleep
    assert {each.state for each in (await target.current()).replicas} == {"ready"}
    async with httpx.AsyncClient() as client:
        assert (await post(client, target)).json()["choices"][0]["text"] == "a"


async def test_a_killed_waker_is_replaced_and_those_that_wait_are_answered(place: Place) -> None:
    target = await asleep(place)
    marked = {**os.environ, detached.MARK: f"{place.folder}/waker"}
    process = await anyio.open_process([sys.executable, str(WAKING), str(place.folder)], stderr=None, env=marked)
    try:
        async with httpx.AsyncClient() as client, anyio.create_task_group() as group:
            answers: list[httpx.Response] = []

            async def one() -> None:
                answers.append(await post(client, target))

            for _ in range(20):
                group.start_soon(one)
            assert process.stdout is not None
            first = int((await process.stdout.receive()).split()[0])
            await anyio.sleep(0.3)
            os.kill(first, signal.SIGKILL)
            with anyio.fail_after(60):
                while len(answers) < 20:
                    await anyio.sleep(0.05)
        assert [each.status_code for each in answers] == [200] * 20
        assert starts.read(target.folder).succeeded == 1
        assert (await target.logs(f"{A.name}-0")).count("INFO a starts") == 1
        process.kill()
        await process.wait()
        async with httpx.AsyncClient() as client:
            assert (await post(client, target)).status_code == 200, "a server that runs serves without a waker"
    finally:
        for pid in detached.marked(f"{place.folder}/waker"):
            os.kill(pid, signal.SIGKILL)
        await process.aclose()


STRATEGIES: tuple[Strategy, ...] = (BlueGreen(), Canary(stages=(CanaryStep(weight=50, hold_s=0.0),)))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda each: each.name)
async def test_a_deployment_where_nothing_runs_loses_none_of_the_requests_that_come_meanwhile(
    strategy: Strategy, place: Place
) -> None:
    target, journal = await asleep(place), Journal(place.folder)
    async with awake(target), httpx.AsyncClient() as client:
        served: set[str] = set()
        ended = anyio.Event()

        async def drive() -> None:
            while not ended.is_set():
                answer = await post(client, target)
                assert answer.status_code == 200, answer.text
                served.add(answer.json()["choices"][0]["text"])

        async with anyio.create_task_group() as group:
            group.start_soon(drive)
            release = Release(commit=B.commit, digest=B.image.digest, repository="r", tag="t")
            to_b = Wanted(channel="c", release=release, revision=B, replicas=1, strategy=strategy, scale=SCALE)
            made = await verbs.begun(target, journal, to_b)
            assert made is not None
            done = await Rollout(target, journal, made, Rules(analysis=Analysis(conditions=()))).run()
            await anyio.sleep(0.3)
            ended.set()
    assert done.phase == "live"
    assert "b" in served
    assert (await target.current()).route.weights == {B.name: 100}
    assert {each.revision for each in (await target.current()).replicas} == {B.name}


async def test_a_deployment_that_fails_where_nothing_runs_leaves_it_scaled_to_zero(place: Place) -> None:
    target, journal, bad = await asleep(place), Journal(place.folder), revision("c", "dies")
    release = Release(commit=bad.commit, digest=bad.image.digest, repository="r", tag="t")
    to_bad = Wanted(channel="c", release=release, revision=bad, replicas=1, strategy=BlueGreen(), scale=SCALE)
    made = await verbs.begun(target, journal, to_bad)
    assert made is not None
    done = await Rollout(target, journal, made, Rules(analysis=Analysis(conditions=()))).run()
    assert done.phase == "returned"
    assert (await target.current()).asleep
    async with awake(target), httpx.AsyncClient() as client:
        assert (await post(client, target)).json()["choices"][0]["text"] == "a"
