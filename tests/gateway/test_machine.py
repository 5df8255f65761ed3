"""The target on a machine that is shared, full or broken: what is not known never counts as none, and is not given twice."""

from __future__ import annotations

from pathlib import Path

import anyio
import httpx
import pytest

from standin.deployment import Place, opened, revision
from standin.gateway import answered, served
from vllm_ci.config.deploy import ChecksConfig
from vllm_ci.deploy.analysis import Outcome
from vllm_ci.deploy.plan import PREVIEW, Checks
from vllm_ci.deploy.target import Route
from vllm_ci.domain.errors import ErroredError, UsageError
from vllm_ci.domain.gateway import GatewaySettings
from vllm_ci.targets.checks import Runner
from vllm_ci.targets.envoy import files
from vllm_ci.targets.local.budget import Machine
from vllm_ci.targets.local.state import State, Store

pytestmark = [pytest.mark.anyio, pytest.mark.gateway]

A = revision("a")


@pytest.mark.parametrize(
    ("settings", "outcome"),
    [
        (GatewaySettings(), Outcome.SUCCESSFUL),
        (GatewaySettings(api_keys=True), Outcome.SUCCESSFUL),
        (GatewaySettings(requests_per_minute=1), Outcome.SUCCESSFUL),
        (GatewaySettings(routes=("/v1/chat/completions",)), Outcome.SUCCESSFUL),
        (GatewaySettings(routes=("/v1/models",)), Outcome.FAILED),
    ],
    ids=["plain", "keys", "limit", "only chat", "no completions"],
)
async def test_a_release_serves_when_a_completion_came_through_its_gateway(
    settings: GatewaySettings, outcome: Outcome, place: Place
) -> None:
    target = await served(place, settings)
    await target.start(revision("b"), 1)
    await target.route(Route(weights={A.name: 100}, headers={PREVIEW: revision("b").name}))
    current = await target.current()
    if settings.requests_per_minute:
        async with httpx.AsyncClient(base_url=current.address) as client:
            assert [(await client.get("/v1/models")).status_code for _ in range(2)] == [200, 429]
    runner = Runner(config=ChecksConfig(), folder=place.folder, model="m")
    kinds: tuple[Checks, ...] = ("before", "after")
    for kind in kinds:
        found = await runner.check(kind, current, revision("b").name)
        assert found.outcome is outcome
        assert ("no completion came through the gateway" in found.reason) is (outcome is Outcome.FAILED)


async def test_a_disk_that_gets_full_while_servers_start_is_said_and_what_serves_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = await served(place, GatewaySettings())
    save, calls = Store.save, [0]

    def full(self: Store, state: State) -> None:
        calls[0] += 1
        if calls[0] > 1:  # the server is started and written down, and then gets ready
            raise ErroredError("state.json cannot be written")
        save(self, state)

    monkeypatch.setattr(Store, "save", full)
    with pytest.raises(ErroredError, match="cannot be written"):
        await target.start(revision("b", "slow"), 2)
    monkeypatch.undo()
    assert await answered(target) == "a"
    await place.target().start(revision("b", "slow"), 2)
    assert (await target.current()).ready(revision("b", "slow").name) == 2


@pytest.mark.parametrize("content", [b"", b"{}", b'{"resources": []}', b'{"resources": [{"virtual_hosts": 3}]}', None])
async def test_a_route_that_cannot_be_read_is_not_taken_for_none(content: bytes | None, place: Place) -> None:
    target = await served(place, GatewaySettings())
    path = place.folder / "target" / "gateway" / files.ROUTES
    before = path.read_bytes()
    path.unlink()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(ErroredError, match="it is not known who gets requests"):
        await target.stop(A.name)
    with pytest.raises(ErroredError, match="it is not known who gets requests"):
        await target.current()
    if content is None:
        path.rmdir()
    path.write_bytes(before)
    assert (await target.current()).ready(A.name) == 1
    assert await answered(target) == "a"


async def test_deployments_of_one_machine_share_its_gpus_and_memory(tmp_path: Path) -> None:
    there = Machine(memory_bytes=10 * 2**30, devices=2)
    names = ("staging", "production", "third")
    staging, production, third = (opened(tmp_path / "all" / name / "target", machine=there) for name in names)
    try:
        async with anyio.create_task_group() as group:  # at once
            for each, name in ((staging, "a"), (production, "b")):
                group.start_soon(each.start, revision(name, memory_bytes=3 * 2**30, gpus=1), 1)
        given = [kept.devices for each in (staging, production) for kept in each._store.load().replicas.values()]
        assert sorted(given) == [(0,), (1,)]
        with pytest.raises(UsageError, match="do not fit on this machine") as caught:
            await third.start(revision("c", gpus=1), 1)
        assert "(1 of " in caught.value.why
        assert " (staging)" in caught.value.why
        with pytest.raises(UsageError, match="do not fit in the memory") as caught:
            await third.start(revision("c", memory_bytes=5 * 2**30), 1)
        assert "6.0 GiB + 5.0 GiB = 11.0 GiB of 10.0 GiB" in caught.value.why
        await staging.close()
        await third.start(revision("c", gpus=1), 1)
        assert (await third.current()).ready(revision("c", gpus=1).name) == 1
    finally:
        for each in (staging, production, third):
            await each.close()
