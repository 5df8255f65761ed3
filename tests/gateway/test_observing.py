"""What the gateway and the servers count is told for each revision and window."""

from __future__ import annotations

import anyio
import httpx
import pytest

from standin.deployment import Place, revision
from standin.gateway import ASK
from standin.streams import many, stream
from vllm_ci.deploy import scaling
from vllm_ci.deploy.target import Observation, Revision, Route
from vllm_ci.targets.local import observing
from vllm_ci.targets.local.state import Kept
from vllm_ci.targets.local.target import LocalTarget

pytestmark = [pytest.mark.anyio, pytest.mark.gateway]


async def started(place: Place, *revisions: Revision, route: Route) -> LocalTarget:
    target = place.target()
    for each in revisions:
        await target.start(each, 1)
    await target.route(route)
    return target


async def observed(target: LocalTarget, count: int, *, stream: bool = False) -> Observation:
    """An observation in which so many requests end."""
    found: list[Observation] = []

    async def watch() -> None:
        found.append(await target.observe(seconds=2.5))

    async with anyio.create_task_group() as group, httpx.AsyncClient() as client:
        group.start_soon(watch)
        await anyio.sleep(0.3)
        for _ in range(count):
            body = {**ASK, "stream": stream, "max_tokens": 3, "interval": 0.05}
            await client.post(f"{(await target.current()).address}/v1/completions", json=body)
    return found[0]


async def test_requests_errors_and_latencies_of_each_revision_are_told(place: Place) -> None:
    good, bad = revision("a"), revision("b", "broken")
    target = await started(place, good, bad, route=Route(weights={good.name: 50, bad.name: 50}))
    seen = await observed(target, 60)
    a, b = seen.samples[good.name], seen.samples[bad.name]
    assert a.requests + b.requests == 60
    assert a.errors == 0
    assert 0.3 < b.errors / b.requests < 0.7
    assert 0 < a.latencies_ms["0.5"] <= a.latencies_ms["0.95"] <= a.latencies_ms["0.99"]


async def test_time_to_the_first_byte_is_that_of_the_body_and_not_of_the_end(place: Place) -> None:
    slow = revision("a", "slow")
    target = await started(place, slow, route=Route(weights={slow.name: 100}))
    sample = (await observed(target, 2, stream=True)).samples[slow.name]
    assert sample.requests == 2
    assert 480 < sample.ttft_ms["0.5"] < 640
    assert sample.latencies_ms["0.5"] > sample.ttft_ms["0.5"] + 80


async def test_requests_whose_client_left_before_an_answer_are_not_taken_for_answered(place: Place) -> None:
    slow = revision("a", "slow")
    target = await started(place, slow, route=Route(weights={slow.name: 100}))
    found: list[Observation] = []

    async def watch() -> None:
        found.append(await target.observe(seconds=2.5))

    async with anyio.create_task_group() as group, httpx.AsyncClient() as client:
        group.start_soon(watch)
        await anyio.sleep(0.3)
        address = f"{(await target.current()).address}/v1/completions"
        for _ in range(5):
            with pytest.raises(httpx.ReadTimeout):
                await client.post(address, json=ASK, timeout=0.1)
        await client.post(address, json=ASK)
    sample = found[0].samples[slow.name]
    assert (sample.requests, sample.errors) == (1, 0)


async def test_only_the_requests_of_the_window_count(place: Place) -> None:
    a = revision("a")
    target = await started(place, a, route=Route(weights={a.name: 100}))
    await observed(target, 7)
    assert (await observed(target, 3)).samples[a.name].requests == 3
    empty = (await observed(target, 0)).samples[a.name]
    assert (empty.requests, dict(empty.latencies_ms), dict(empty.ttft_ms)) == (0, {}, {})


async def test_a_stream_that_breaks_in_the_middle_is_an_error(place: Place) -> None:
    a = revision("a")
    target = await started(place, a, route=Route(weights={a.name: 100}))
    found: list[Observation] = []

    async def watch() -> None:
        found.append(await target.observe(seconds=2))

    async with many() as client, anyio.create_task_group() as group:
        group.start_soon(watch)
        address = (await target.current()).address

        async def broken() -> None:
            assert (await stream(client, address, tokens=500, interval_s=0.1)).error

        group.start_soon(broken)
        await anyio.sleep(0.8)
        await target._fleet.end(f"{a.name}-0", target._store.load().replicas[f"{a.name}-0"], grace_s=0)
    assert found[0].samples[a.name].errors == 1


async def test_copies_are_counted_and_nobody_waits_for_them(place: Place) -> None:
    a, b = revision("a"), revision("b", "slow")
    target = await started(place, a, b, route=Route(weights={a.name: 100}, mirror=b.name, mirror_percent=100))
    seen = await observed(target, 4)
    assert seen.samples[a.name].requests == 4
    assert seen.samples[a.name].latencies_ms["0.99"] < 400
    assert seen.samples[b.name].requests == 4
    assert seen.samples[b.name].errors == 0
    assert 400 < seen.samples[b.name].latencies_ms["0.5"] < 1000


async def test_metrics_of_servers_and_their_memory_are_told(place: Place) -> None:
    a = revision("a")
    target = place.target()
    await target.start(a, 2)
    await target.route(Route(weights={a.name: 100}))
    values = (await target.observe(seconds=0.1)).samples[a.name].values
    assert values["vllm:num_requests_waiting"] == 4
    assert values["vllm:num_requests_running"] == 2
    assert values["vllm:kv_cache_usage_perc"] == 0.25
    assert 10 * 2**20 < values["memory_bytes"] < 500 * 2**20


async def counted(target: LocalTarget, name: str) -> dict[str, int]:
    """A counter of the gateway by the name of what listens."""
    found = await target._configuration.admin.counters(f"^http\\..*\\.{name}$")
    return {key.split(".")[1]: value for key, value in found.items()}


async def test_a_server_that_does_not_tell_its_metrics_is_not_taken_for_one_without_requests(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = revision("a")
    target = place.target()
    await target.start(a, 2)
    await target.route(Route(weights={a.name: 100}))
    both = (await target.observe(seconds=0.1)).samples[a.name]
    assert (both.values["vllm:num_requests_waiting"], both.values["vllm:num_requests_running"]) == (4, 2)
    busy = min(kept.port for kept in target._store.load().replicas.values())
    told = observing._metrics

    async def one_is_busy(kept: Kept) -> dict[str, float]:
        return {} if kept.port == busy else await told(kept)

    monkeypatch.setattr(observing, "_metrics", one_is_busy)
    one = (await target.observe(seconds=0.1)).samples[a.name]
    assert set(one.values) == {"memory_bytes"}
    assert scaling.open_requests(one.values) is None, "so the number of servers stays"


async def test_only_answers_that_users_lose_are_resets_of_the_gateway_and_not_copies(place: Place) -> None:
    """The signal `broken` is made of this counter."""
    a, b = revision("a"), revision("b")
    target = await started(place, a, b, route=Route(weights={a.name: 100}, mirror=b.name, mirror_percent=100))
    address = (await target.current()).address
    async with many() as client, anyio.create_task_group() as group:

        async def whole() -> None:
            assert (await stream(client, address, tokens=20, interval_s=0.1)).whole(20)

        group.start_soon(whole)
        await anyio.sleep(0.8)
        await target._fleet.end(f"{b.name}-0", target._store.load().replicas[f"{b.name}-0"], grace_s=0)
    assert (await counted(target, "downstream_rq_tx_reset")).get("gateway", 0) == 0
    async with many() as client, anyio.create_task_group() as group:

        async def broken() -> None:
            assert (await stream(client, address, tokens=500, interval_s=0.1)).error

        group.start_soon(broken)
        await anyio.sleep(0.8)
        await target._fleet.end(f"{a.name}-0", target._store.load().replicas[f"{a.name}-0"], grace_s=0)
    assert (await counted(target, "downstream_rq_tx_reset"))["gateway"] == 1
