"""vLLM's gRPC service behind the gateway: who gets in, what is let through, and what is said of what is not."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import anyio
import grpc
import httpx
import pytest
import trustme

from doubles import grpc_run
from doubles.grpc_messages import ENGINE
from gateway.hostile import PATHS, PSEUDO
from gateway.test_tls import written
from standin import h2
from standin.deployment import Place, revision
from standin.gateway import key_file, reached
from standin.grpc_streams import Client, client
from vllm_ci.config.gateway import GatewayConfig
from vllm_ci.deploy.target import Revision, Route
from vllm_ci.domain.errors import FailedError, UsageError
from vllm_ci.domain.gateway import GRPC_ROUTES, GatewaySettings, Tls
from vllm_ci.suites.grpc.contract import HEALTH
from vllm_ci.suites.grpc.ready import why_not
from vllm_ci.targets.local.key_changes import Keys
from vllm_ci.targets.local.target import LocalTarget

pytestmark = [pytest.mark.anyio, pytest.mark.gateway]

CODES = grpc.StatusCode
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"
_Result = TypeVar("_Result")


def over_grpc(name: str, mode: str = "", **serving: Any) -> Revision:
    return revision(name, mode, protocol="grpc", **serving)


def settings(**given: Any) -> GatewaySettings:
    return GatewayConfig(**given).domain("grpc")


async def served(place: Place, given: GatewaySettings, mode: str = "") -> LocalTarget:
    target, made = place.target(given), over_grpc("a", mode)
    await target.start(made, 1)
    await target.route(Route(weights={made.name: 100}))
    return target


@asynccontextmanager
async def asking(target: LocalTarget, key: str = "") -> AsyncIterator[Client]:
    with ExitStack() as stack:
        yield client(stack, (await target.current()).address, key=key)


async def done(work: Callable[..., _Result], *given: Any, **more: Any) -> _Result:
    return await anyio.to_thread.run_sync(partial(work, *given, **more))


def through(place: Place) -> list[tuple[str, dict[str, str]]]:
    """Methods and metadata of the calls that reached a server by the gateway."""
    return [(method, metadata) for _, method, metadata in reached(place.seen) if "x-request-id" in metadata]


def rows(place: Place) -> list[dict[str, Any]]:
    log = (place.folder / "target" / "gateway" / "access.log").read_text(encoding="utf-8")
    return [json.loads(line) for line in log.splitlines()]


async def test_a_release_generates_through_the_gateway_and_answers_say_which_it_is(place: Place) -> None:
    target = await served(place, settings())
    current = await target.current()
    assert current.address.startswith("grpc://127.0.0.1:")
    assert [each.url[:7] for each in current.replicas] == ["grpc://"]
    async with asking(target) as asked:
        for stream in (True, False):
            found = await done(asked.generate, 12, stream=stream)
            assert found.whole(12)
            assert found.metadata["x-vllm-ci-revision"] == over_grpc("a").name
            assert len(found.metadata["x-request-id"]) == 36
        assert await done(asked.call, "Check", service=HEALTH) == (CODES.OK, "")
    assert [method.rpartition("/")[2] for method, _ in through(place)] == ["Generate", "Generate", "Check"]


async def test_keys_are_asked_for_and_revoked_and_the_service_never_sees_them(place: Place) -> None:
    key = key_file(place).add("team-a")
    target = await served(place, settings(api_keys=True))
    wrong = ("", "vci_team-a_" + "x" * 43, key[:-1], key.upper(), "vci__")
    async with asking(target, key) as asked:
        assert (await done(asked.generate)).whole(1)
        for scheme, value in (("x-api-key", key), ("authorization", f"bearer {key}")):
            assert (await done(asked.generate, metadata=((scheme, value),))).whole(1)
        for each in wrong:
            given = (("authorization", f"Bearer {each}"),)
            for name, service in (("Generate", ENGINE), ("Check", HEALTH), ("GetModelInfo", ENGINE)):
                code, details = await done(asked.call, name, service=service, metadata=given)
                assert (code, "no valid API key" in details) == (CODES.UNAUTHENTICATED, True), each
        forged = (("x-vllm-ci-key", "team-a"), ("x-vllm-ci-credential", "Basic dGVhbS1hOng="))
        assert (await done(asked.generate, metadata=forged)).code is CODES.UNAUTHENTICATED
        await Keys(folder=target.folder).revoke("team-a")
        assert (await done(asked.generate)).code is CODES.UNAUTHENTICATED
    calls = [metadata for _, metadata in through(place)]
    assert len(calls) == 3
    assert all("authorization" not in headers and "x-api-key" not in headers for headers in calls)
    assert {headers["x-vllm-ci-key"] for headers in calls} == {"team-a"}


async def test_only_methods_that_are_allowed_reach_a_server(place: Place) -> None:
    target = await served(place, settings())
    refused = [
        *((name, ENGINE) for name in ("Abort", "FlushCache", "StartProfile", "StopProfile", "SubscribeKvEvents", "Nothing")),
        *(("generate", ENGINE), ("Generate/", ENGINE), ("Generate", "vllm.grpc.engine.Other"), ("", ENGINE), ("List", HEALTH)),
        *(("ServerReflectionInfo", REFLECTION), ("ServerReflectionInfo", REFLECTION.replace("v1alpha", "v1"))),
        *(("..%2fAbort", ENGINE), ("../VllmEngine/Abort", ENGINE), ("Generate/../Abort", ENGINE)),
    ]
    async with asking(target) as asked:
        for name, service in refused:
            code, details = await done(asked.call, name, service=service)
            assert code in (CODES.UNIMPLEMENTED, CODES.INTERNAL), (name, service, code)
            assert "%2f" in name or details == "no such method", (name, service, details)
        assert through(place) == []
        assert (await done(asked.call, "GetModelInfo"))[0] is CODES.OK
    assert len(through(place)) == 1
    found = {(row["path"].rpartition("/")[2], row["grpc_status"], row["cluster"]) for row in await logged(place, "Abort")}
    assert ("Abort", CODES.UNIMPLEMENTED.value[0], None) in found


async def logged(place: Place, text: str) -> list[dict[str, Any]]:
    with anyio.fail_after(10):
        while not any(text in row["path"] for row in rows(place)):
            await anyio.sleep(0.05)
    return rows(place)


async def test_what_is_no_grpc_reaches_no_server(place: Place) -> None:
    target = await served(place, settings())
    host, _, port = (await target.current()).address.removeprefix("grpc://").partition(":")
    path = GRPC_ROUTES[0]
    for kind in ("application/json", "application/grpc-web", "text/plain"):
        for method in ("POST", "GET"):
            pseudo = [(":method", method), (":scheme", "http"), (":authority", "x"), (":path", path), ("content-type", kind)]
            await done(h2.ask, host, int(port), pseudo)
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc\r\n\r\n".encode())
        assert b"200 OK" not in connection.recv(4096)
    assert through(place) == []
    called = [("te", "trailers"), ("content-type", "application/grpc")]
    pseudo = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", path), *called]
    await done(h2.ask, host, int(port), pseudo)
    with anyio.fail_after(10):
        while not through(place):
            await anyio.sleep(0.05)


async def test_hostile_paths_reach_nothing_but_allowed_methods(place: Place) -> None:
    target = await served(place, settings())
    host, _, port = (await target.current()).address.removeprefix("grpc://").partition(":")
    kind = [("content-type", "application/grpc"), ("te", "trailers")]
    base = GRPC_ROUTES[0].rpartition("/")[0]
    shapes = ("/Abort", "//Abort", "/./Abort", "/Generate/../Abort", "/Generate;/Abort", "/Generate?/../Abort", "/%41bort")
    hidden = [*(base + shape for shape in shapes), f"/x/..{base}/Abort", f"/{base}/FlushCache", base.upper() + "/Generate"]
    asked = [[(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", path)] for path in (*PATHS, *hidden)]
    for pseudo in (*asked, *(list(each) for each in PSEUDO)):
        await done(h2.ask, host, int(port), [*pseudo, *kind])
    assert {method.partition("?")[0] for method, _ in through(place)} <= {GRPC_ROUTES[0]}


async def test_limits_end_with_the_status_that_clients_know(place: Place) -> None:
    first, second = key_file(place).add("team-a"), key_file(place).add("team-b")
    target = await served(place, settings(api_keys=True, requests_per_minute=6, max_body_bytes=10_000))
    async with asking(target, first) as asked:
        large = await done(asked.generate, size=30_000)
        assert (large.code, large.details) == (CODES.RESOURCE_EXHAUSTED, "the request is too large")
        many = await done(asked.generate, metadata=(*asked.metadata, ("x-large", "y" * 20_000)))
        assert many.code is not CODES.OK
        codes = [(await done(asked.generate)).code for _ in range(8)]
        assert codes[:3] == [CODES.OK] * 3
        assert codes[-2:] == [CODES.RESOURCE_EXHAUSTED] * 2
    async with asking(target, second) as asked:
        assert (await done(asked.generate)).whole(1)


async def test_without_a_release_clients_are_told_to_try_again(place: Place) -> None:
    target = place.target(settings())
    await target.start(over_grpc("a"), 1)
    async with asking(target) as asked:
        found = await done(asked.generate)
        assert (found.code, found.details) == (CODES.UNAVAILABLE, "no release is being served here")
        assert (await done(asked.call, "Abort"))[0] is CODES.UNIMPLEMENTED


async def test_neither_keys_nor_prompts_are_in_a_file_and_names_of_keys_and_statuses_are_in_the_log(place: Place) -> None:
    key = key_file(place).add("team-a")
    target = await served(place, settings(api_keys=True))
    async with asking(target, key) as asked:
        assert (await done(asked.generate, 3)).whole(3)
        assert (await done(asked.call, "Embed"))[0] is CODES.INVALID_ARGUMENT
        await done(asked.generate, metadata=(("authorization", f"Bearer {key[:-1]}"),))
    found = [
        (row["key"], row["status"], row["grpc_status"], row["path"].rpartition("/")[2])
        for row in await logged(place, "Embed")
        if row["listener"] == "gateway"
    ]
    with anyio.fail_after(10):
        while len(rows(place)) < 3:
            await anyio.sleep(0.05)
    assert found[:2] == [("team-a", 200, 0, "Generate"), ("team-a", 200, 3, "Embed")]
    secret = key.rpartition("_")[2].encode()
    for file in (path for path in (place.folder / "target").rglob("*") if path.is_file()):
        assert secret not in file.read_bytes(), file


async def test_metrics_count_calls_by_their_status_and_release(place: Place) -> None:
    target = await served(place, settings())
    async with asking(target) as asked:
        for _ in range(3):
            assert (await done(asked.generate)).whole(1)
        await done(asked.call, "Embed")
    ports = target._store.load().ports
    assert ports is not None
    name = f'{{envoy_cluster_name="revision/{over_grpc("a").name}"}}'
    with anyio.fail_after(10):
        while True:
            async with httpx.AsyncClient() as reader:
                text = (await reader.get(f"http://127.0.0.1:{ports.metrics}/metrics")).text
            if {f"envoy_cluster_grpc_0{name} 3", f"envoy_cluster_grpc_3{name} 1"} <= set(text.splitlines()):
                return
            await anyio.sleep(0.2)


async def test_the_gateway_speaks_tls(place: Place) -> None:
    authority = trustme.CA()
    target = await served(place, settings(**files(written(place.folder / "tls", authority))))
    current = await target.current()
    assert current.address.startswith("grpcs://")
    with ExitStack() as stack:
        asked = client(stack, current.address, authorities=authority.cert_pem.bytes())
        assert (await done(asked.generate, 5)).whole(5)
    with ExitStack() as stack:
        assert (await done(client(stack, current.checks).generate)).whole(1)


def files(tls: Tls) -> dict[str, str]:
    return {"tls_certificate": str(tls.certificate), "tls_key": str(tls.key)}


@pytest.mark.parametrize(
    ("mode", "said"), [("dies", "requires smg-grpc-servicer"), ("mute", "not ready after 2 s; the last check said: DEADLINE")]
)
async def test_a_server_that_does_not_generate_is_never_ready(mode: str, said: str, place: Place) -> None:
    with pytest.raises(FailedError, match="1 of 1 replicas") as caught:
        await place.target(settings()).start(over_grpc("b", mode, ready_timeout_s=2.0), 1)
    assert said in caught.value.why


async def test_a_server_whose_health_is_bad_gets_no_requests_although_it_generates(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm_ci.targets.local.late.SEEN_S", 3.0)
    with pytest.raises(FailedError, match="gets no answer") as caught:
        await place.target(settings()).start(over_grpc("b", "unwell"), 1)
    assert caught.value.why == "grpc.health.v1.Health does not say SERVING"


async def test_a_channel_does_not_change_its_protocol_while_it_serves(place: Place) -> None:
    target = await served(place, settings())
    before = await target.current()
    other = place.target(GatewaySettings())
    with pytest.raises(UsageError, match="speak http, and the gateway of this deployment grpc") as caught:
        await other.start(revision("b"), 1)
    assert "vllm-ci deploy stop" in caught.value.why
    await other.start(over_grpc("a"), 1)  # what serves is looked after as it is
    await other.route(before.route)
    assert await other.current() == before
    async with asking(target) as asked:
        assert (await done(asked.generate)).whole(1)
    await other.close()
    await other.start(revision("b"), 1)
    assert (await other.current()).address.startswith("http://")


async def test_without_the_client_nothing_is_started(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_ci.targets.local.speaking.missing", lambda: "the package grpc is not installed")
    with pytest.raises(UsageError, match="gRPC cannot be deployed") as caught:
        await place.target(settings()).start(over_grpc("a"), 1)
    assert caught.value.remedy == "pip install 'vllm-ci[grpc]'"
    assert (await place.target().current()).replicas == ()


async def test_the_suite_passes_through_the_gateway_with_a_key(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway refuses reflection, so messages are those of the package; Abort, refused by default, is let through."""
    monkeypatch.setitem(sys.modules, "smg_grpc_proto", grpc_run.package())
    key = key_file(place).add("suite")
    target = await served(place, settings(api_keys=True, routes=[*GRPC_ROUTES, f"/{ENGINE}/Abort"]), "plain")
    monkeypatch.setattr(grpc_run, "KEY", key)
    address = (await target.current()).address
    found = await done(grpc_run.against, address, given=["--vllm-api-key-env", grpc_run.KEY_ENV], patient=True)
    assert found.failed == set(), found.messages
    skipped = [name for name, status in found.statuses.items() if status == "skipped"]
    assert skipped == ["grpc/test_facts.py::test_reflection_lists_what_is_served"]


async def test_a_generation_of_another_protocol_is_not_taken_for_ready(place: Place) -> None:
    target = place.target()
    await target.start(revision("a"), 1)
    port = (await target.current()).replicas[0].url.rpartition(":")[2]
    assert await done(why_not, f"127.0.0.1:{port}", timeout_s=5)
