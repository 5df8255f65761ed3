"""Whatever changes behind the gateway, open streams go on to their end and no request fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import aiohttp
import anyio
import anyio.abc
import pytest

from standin.deployment import Place, revision
from standin.streams import Stream, many, stream
from vllm_ci.deploy.target import Route
from vllm_ci.domain.errors import ErroredError
from vllm_ci.targets.envoy import files
from vllm_ci.targets.local.target import LocalTarget

pytestmark = [pytest.mark.anyio, pytest.mark.gateway]

STREAMS = 200
TOKENS = 40


async def served(target: LocalTarget, name: str, replicas: int = 1) -> str:
    made = revision(name)
    await target.start(made, replicas)
    await target.route(Route(weights={made.name: 100}))
    return made.name


async def opened(client: aiohttp.ClientSession, address: str, found: list[Stream], *, count: int = STREAMS) -> None:
    """Keep ``count`` streams open until all are done."""
    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(_one, client, address, found)


async def _one(client: aiohttp.ClientSession, address: str, found: list[Stream]) -> None:
    found.append(await stream(client, address, tokens=TOKENS, interval_s=0.1))


async def steady(client: aiohttp.ClientSession, address: str, found: list[Stream], stop: anyio.Event) -> None:
    """Short requests one after another, for as long as the change lasts."""
    while not stop.is_set():
        found.append(await stream(client, address, tokens=2, interval_s=0.0))
        await anyio.sleep(0.02)


async def all_open(target: LocalTarget, name: str, count: int) -> None:
    with anyio.fail_after(120):
        while await target._configuration.admin.open_requests(name) < count:
            await anyio.sleep(0.05)


async def test_200_streams_are_whole_while_shares_change_100_times(place: Place) -> None:
    target = place.target()
    a, b = await served(target, "a"), revision("b").name
    await target.start(revision("b"), 1)
    address = (await target.current()).address
    found: list[Stream] = []
    short: list[Stream] = []
    stop = anyio.Event()
    async with many() as client, anyio.create_task_group() as group:
        group.start_soon(opened, client, address, found)
        group.start_soon(steady, client, address, short, stop)
        await all_open(target, a, STREAMS)
        for turn in range(100):
            share = (turn * 37) % 101
            await target.route(Route(weights={a: share, b: 100 - share}))
        stop.set()
    assert len(found) == STREAMS
    assert not [each for each in found if not each.whole(TOKENS)]
    assert short
    assert not [each for each in short if not each.whole(2)]
    assert {name for each in short for name in each.servers} == {"a", "b"}


async def test_streams_of_a_removed_revision_are_whole(place: Place) -> None:
    target = place.target()
    a = await served(target, "a", 2)
    address = (await target.current()).address
    found: list[Stream] = []
    short: list[Stream] = []
    stop = anyio.Event()
    async with many() as client, anyio.create_task_group() as group:
        group.start_soon(opened, client, address, found)
        await all_open(target, a, STREAMS)
        group.start_soon(steady, client, address, short, stop)
        b = await served(target, "b")
        drained = await target.drain(a, deadline_s=60)
        assert drained.open == 0
        await target.stop(a)
        assert [each.revision for each in (await target.current()).replicas] == [b]
        stop.set()
    assert not [each for each in [*found, *short] if not each.whole(TOKENS if each in found else 2)]
    assert len(found) == STREAMS


async def test_streams_are_whole_while_replicas_are_taken_away(place: Place) -> None:
    target = place.target()
    a = await served(target, "a", 3)
    address = (await target.current()).address
    found: list[Stream] = []
    async with many() as client, anyio.create_task_group() as group:
        group.start_soon(opened, client, address, found)
        await all_open(target, a, STREAMS)
        await target.start(revision("a"), 1)
        assert len((await target.current()).replicas) == 1
    assert not [each for each in found if not each.whole(TOKENS)]


async def test_a_request_whose_body_is_on_its_way_while_its_revision_is_removed_is_answered(place: Place) -> None:
    target = place.target()
    a = await served(target, "a")
    address = (await target.current()).address
    gate = anyio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b'{"model": "m", "stream": '
        await gate.wait()
        yield b'true, "max_tokens": 3}'

    async with many() as client, anyio.create_task_group() as group:
        answers: list[tuple[int, str]] = []

        async def send() -> None:
            async with client.post(f"{address}/v1/completions", data=body()) as answer:
                answers.append((answer.status, await answer.text()))

        group.start_soon(send)
        await anyio.sleep(0.3)
        await served(target, "b")
        assert (await target.drain(a, deadline_s=10)).open == 0
        await target.stop(a)
        gate.set()
    assert answers[0][0] == 200, answers
    assert "[DONE]" in answers[0][1]


class Bodies:
    """Requests whose bodies arrive one after another, and how they were answered."""

    def __init__(self, client: aiohttp.ClientSession, address: str, count: int) -> None:
        self._client, self._url = client, f"{address}/v1/completions"
        self._gates = [anyio.Event() for _ in range(count)]
        self.answers: list[tuple[int, str]] = []

    async def begin(self, group: anyio.abc.TaskGroup) -> None:
        """Send the first half of each."""
        for gate in self._gates:
            group.start_soon(self._send, gate)
        await anyio.sleep(0.3)

    async def go_on(self, interval_s: float) -> None:
        """Send the second halves."""
        for gate in self._gates:
            gate.set()
            await anyio.sleep(interval_s)

    async def _send(self, gate: anyio.Event) -> None:
        async def body() -> AsyncIterator[bytes]:
            yield b'{"model": "m", '
            await gate.wait()
            yield b'"max_tokens": 3}'

        async with self._client.post(self._url, data=body()) as answer:
            self.answers.append((answer.status, await answer.text()))

    def servers(self) -> set[str]:
        """Who answered; every request was answered."""
        assert {status for status, _ in self.answers} == {200}, self.answers
        return {json.loads(text)["choices"][0]["text"] for _, text in self.answers}


async def test_late_bodies_are_answered_while_the_gateway_does_not_know_yet_whether_the_other_servers_are_well(
    place: Place,
) -> None:
    target = place.target()
    a, b = await served(target, "a"), revision("b", "late")
    async with many() as client, anyio.create_task_group() as group:
        bodies = Bodies(client, (await target.current()).address, 40)
        await bodies.begin(group)
        await target.start(b, 1)
        await target.route(Route(weights={b.name: 100}))
        assert (await target.drain(a, deadline_s=10)).open == 0
        group.start_soon(bodies.go_on, 0.03)
        await target.stop(a)
    assert len(bodies.answers) == 40
    assert bodies.servers() == {"a", "b"}


async def test_late_bodies_are_answered_while_their_revision_that_was_removed_starts_again(place: Place) -> None:
    target = place.target()
    a = await served(target, "a")
    async with many() as client, anyio.create_task_group() as group:
        bodies = Bodies(client, (await target.current()).address, 60)
        await bodies.begin(group)
        await served(target, "b")
        assert (await target.drain(a, deadline_s=10)).open == 0
        await target.stop(a)
        group.start_soon(bodies.go_on, 0.03)
        await target.start(revision("a"), 1)
        await target.route(Route(weights={a: 100}))
    assert len(bodies.answers) == 60
    assert "b" in bodies.servers()


async def test_a_deployment_at_its_deadline_tells_what_is_still_open(place: Place) -> None:
    target = place.target()
    a = await served(target, "a")
    address = (await target.current()).address
    async with many() as client, anyio.create_task_group() as group:
        found: list[Stream] = []
        group.start_soon(_one, client, address, found)
        await all_open(target, a, 1)
        await served(target, "b")
        drained = await target.drain(a, deadline_s=0.5)
        assert drained.open == 1
        assert drained.seconds < 2
    assert found[0].whole(TOKENS)


async def test_a_gateway_that_is_slow_to_tell_is_not_taken_for_one_without_open_requests(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = place.target()
    a = await served(target, "a")
    envoy = target._store.load().envoy
    assert envoy is not None
    async with many() as client, anyio.create_task_group() as group:
        found: list[Stream] = []
        group.start_soon(_one, client, (await target.current()).address, found)
        await all_open(target, a, 1)
        await served(target, "b")
        monkeypatch.setattr("vllm_ci.targets.envoy.admin._TIMEOUT_S", 0.1)
        envoy.signal(signal.SIGSTOP)
        try:
            before = (place.folder / "target" / "gateway" / files.ROUTES).read_bytes()
            drained = await target.drain(a, deadline_s=1.5)
            with pytest.raises(ErroredError, match="cannot be reached"):
                await target._configuration.apply(files.ROUTES, [])
            assert (place.folder / "target" / "gateway" / files.ROUTES).read_bytes() == before
        finally:
            envoy.signal(signal.SIGCONT)
        assert drained.seconds >= 1.5, "it waits until it knows, or the deadline has come"
        monkeypatch.undo()
        assert (await target.drain(a, deadline_s=60)).open == 0
    assert found[0].whole(TOKENS)


DRIVER = """
import anyio, sys
from pathlib import Path
from standin.deployment import Place, revision
from vllm_ci.deploy.target import Route

async def main():
    target = Place(folder=Path(sys.argv[1])).target()
    for name in ("a", "b"):
        await target.start(revision(name), 1)
        await target.route(Route(weights={revision(name).name: 100}))
        print(name, flush=True)
    turn = 0
    while True:
        turn += 1
        await target.route(Route(weights={revision("a").name: turn % 101, revision("b").name: 100 - turn % 101}))

anyio.run(main)
"""


async def test_a_driver_that_is_killed_leaves_what_serves_and_another_goes_on(place: Place) -> None:
    command = [sys.executable, "-c", DRIVER, str(place.folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True, start_new_session=True)
    assert driver.stdout is not None
    assert driver.stdout.readline().strip() == "a"
    target = place.target()
    address = (await target.current()).address
    found: list[Stream] = []
    async with many() as client, anyio.create_task_group() as group:
        group.start_soon(opened, client, address, found)
        await all_open(target, revision("a").name, 1)
        await anyio.to_thread.run_sync(driver.stdout.readline)
        await anyio.sleep(0.5)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        driver.stdout.close()
        name = revision("c").name
        await target.start(revision("c"), 1)
        await target.route(Route(weights={name: 100}))
        for old in (revision("a").name, revision("b").name):
            assert (await target.drain(old, deadline_s=60)).open == 0
            await target.stop(old)
    assert len(found) == STREAMS
    assert not [each for each in found if not each.whole(TOKENS)]
    assert {each.revision for each in (await target.current()).replicas} == {name}


async def test_going_back_while_the_old_revision_is_warm_takes_less_than_a_second(place: Place) -> None:
    target = place.target()
    a = await served(target, "a")
    await served(target, "b")
    begun = time.monotonic()
    await target.route(Route(weights={a: 100}))
    assert time.monotonic() - begun < 1
    async with many() as client:
        answer = await stream(client, (await target.current()).address, tokens=1, interval_s=0)
    assert answer.servers == {"a"}
