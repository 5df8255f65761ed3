"""API keys: who has one gets in, nobody else does, and keys are in no file and in no log."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import httpx
import pytest

from standin.deployment import Place, revision
from standin.gateway import ASK, key_file, no_space, reached, served
from vllm_ci.deploy.target import Route
from vllm_ci.domain.errors import ErroredError, UsageError
from vllm_ci.domain.gateway import GatewaySettings
from vllm_ci.targets.local.key_changes import Keys

pytestmark = [pytest.mark.anyio, pytest.mark.gateway]

KEYS = GatewaySettings(api_keys=True, max_body_bytes=100_000)


async def test_keys_are_asked_for_added_and_revoked_without_a_restart(place: Place) -> None:
    key = key_file(place).add("team-a")
    target = await served(place, KEYS)
    keys = Keys(folder=target.folder)
    async with httpx.AsyncClient(base_url=(await target.current()).address) as client:
        assert (await client.post("/v1/completions", json=ASK)).status_code == 401
        for wrong in (
            "vci_team-a_" + "x" * 43,
            key[:-1],
            key.upper(),
            key + "x",
            f"{key},{key}",
            "vci__",
            "Basic dGVhbS1hOng=",
        ):
            assert (
                await client.post("/v1/completions", json=ASK, headers={"authorization": f"Bearer {wrong}"})
            ).status_code == 401
        for good in ({"authorization": f"Bearer {key}"}, {"Authorization": f"bearer {key}"}, {"x-api-key": key}):
            assert (await client.post("/v1/completions", json=ASK, headers=good)).status_code == 200
        forged = {"x-vllm-ci-key": "team-a", "x-vllm-ci-credential": "Basic dGVhbS1hOng="}
        assert (await client.post("/v1/completions", json=ASK, headers=forged)).status_code in (400, 401)
        assert (await client.get("/metrics")).status_code == 404
        second = await keys.add("team-b")
        assert await status(client, second) == 200
        await keys.revoke("team-a")
        assert await status(client, key) == 401
        assert (await client.get("/v1/models", headers={"authorization": f"Bearer {second}"})).status_code == 200
    await target.start(revision("b"), 1)
    await target.route(Route(weights={revision("a").name: 100}, mirror=revision("b").name, mirror_percent=100))
    async with httpx.AsyncClient(base_url=(await target.current()).address) as client:
        before = len(list(reached(place.seen)))
        assert await status(client, second) == 200
        with anyio.fail_after(5):
            while len(list(reached(place.seen))) < before + 2:
                await anyio.sleep(0.05)
    assert all("authorization" not in headers and "x-api-key" not in headers for _, _, headers in reached(place.seen))


async def status(client: httpx.AsyncClient, key: str) -> int:
    return (await client.get("/v1/models", headers={"authorization": f"Bearer {key}"})).status_code


async def test_a_key_that_the_gateway_does_not_take_is_not_added(place: Place) -> None:
    target = await served(place, KEYS)
    keys = Keys(folder=target.folder)
    with no_space(), pytest.raises(ErroredError, match="cannot be written"):
        await keys.add("team-a")
    assert keys.all() == []
    key = await keys.add("team-a")
    async with httpx.AsyncClient(base_url=(await target.current()).address) as client:
        assert await status(client, key) == 200


async def test_a_revocation_whose_command_was_killed_is_completed_by_the_same_command(place: Place) -> None:
    target = await served(place, KEYS)
    keys = Keys(folder=target.folder)
    key = await keys.add("team-a")
    rows = keys.log.folder / "team-a"
    rows.mkdir(parents=True)
    key_file(place).revoke("team-a")  # the command is killed after this
    async with httpx.AsyncClient(base_url=(await target.current()).address) as client:
        assert await status(client, key) == 200
        await keys.revoke("team-a")
        assert await status(client, key) == 401
    assert not rows.exists()
    with pytest.raises(UsageError, match="there is no key team-a"):
        await keys.revoke("team-a")


async def test_keys_are_named_once_and_revoked_by_a_name_that_exists(tmp_path: Path) -> None:
    keys = Keys(folder=tmp_path / "target")
    await keys.add("team-a")
    for name in ("team-a", "", "Team", "a_b", "a:b", "-a", "x" * 41, "a\nb"):
        with pytest.raises(UsageError):
            await keys.add(name)
    with pytest.raises(UsageError, match="the keys are: team-a"):
        await keys.revoke("team-b")
    assert [key.name for key in keys.all()] == ["team-a"]
    assert (tmp_path / "target" / "keys.json").stat().st_mode & 0o077 == 0


async def test_without_any_key_nobody_gets_in_but_checks_from_this_machine_do(place: Place) -> None:
    target = await served(place, KEYS)
    current = await target.current()
    async with httpx.AsyncClient() as client:
        assert (await client.post(f"{current.address}/v1/completions", json=ASK)).status_code == 401
        assert (await client.post(f"{current.checks}/v1/completions", json=ASK)).status_code == 200
        assert (await client.post(f"{current.checks}/invocations", json=ASK)).status_code == 404


async def test_keys_and_prompts_are_in_no_file_and_names_of_keys_are_in_the_access_log(place: Place) -> None:
    key = key_file(place).add("team-a")
    target = await served(place, KEYS)
    async with httpx.AsyncClient(base_url=(await target.current()).address) as client:
        for path in ("/v1/completions?api_key=" + key, "/v1/completions"):
            answer = await client.post(path, json=ASK, headers={"authorization": f"Bearer {key}"})
            assert answer.status_code == 200
        await client.post("/v1/completions", json=ASK, headers={"authorization": f"Bearer {key[:-1]}"})
    await anyio.sleep(0.5)
    log = (place.folder / "target" / "gateway" / "access.log").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in log.splitlines()]
    assert [row["key"] for row in rows if row["listener"] == "gateway" and row["status"] == 200] == ["team-a", "team-a"]
    assert {row["path"] for row in rows} == {"/v1/completions"}
    secret = key.rpartition("_")[2].encode()
    for file in (path for path in (place.folder / "target").rglob("*") if path.is_file()):
        content = file.read_bytes()
        assert secret not in content, file
        assert b"a secret prompt" not in content, file


async def test_requests_beyond_the_rate_of_a_key_get_429_and_changes_of_shares_do_not_fill_it_again(place: Place) -> None:
    first, second = key_file(place).add("team-a"), key_file(place).add("team-b")
    target = await served(place, GatewaySettings(api_keys=True, requests_per_minute=5))
    async with httpx.AsyncClient(base_url=(await target.current()).address) as client:
        statuses = []
        for turn in range(8):
            statuses.append((await client.get("/v1/models", headers={"authorization": f"Bearer {first}"})).status_code)
            if turn == 6:
                await target.route(Route(weights={revision("a").name: 100}, headers={"x": revision("a").name}))
        assert statuses[:5] == [200] * 5
        assert statuses[-2:] == [429, 429]
        refused = await client.get("/v1/models", headers={"authorization": f"Bearer {first}"})
        assert int(refused.headers["retry-after"]) > 0
        assert (await client.get("/v1/models", headers={"authorization": f"Bearer {second}"})).status_code == 200


async def test_a_key_waits_when_it_has_used_up_its_tokens_and_others_do_not(place: Place) -> None:
    first, second = key_file(place).add("team-a"), key_file(place).add("team-b")
    target = await served(place, GatewaySettings(api_keys=True, tokens_per_minute=200))
    async with httpx.AsyncClient(base_url=(await target.current()).address) as client:

        async def asked(key: str, **more: object) -> httpx.Response:
            return await client.post("/v1/completions", json={**ASK, **more}, headers={"authorization": f"Bearer {key}"})

        answers = [await asked(first, max_tokens=120) for _ in range(3)]
        assert [each.status_code for each in answers] == [200, 200, 429], "an answer is paid for by the next request"
        assert 1 < int(answers[-1].headers["retry-after"]) <= 37
        assert answers[-1].json()["error"]["type"] == "gateway_error"
        assert "x-vllm-ci-refused" not in answers[-1].headers
        assert (await asked(second, max_tokens=10)).status_code == 200


async def test_a_stream_without_usage_is_charged_by_its_events(place: Place) -> None:
    key = key_file(place).add("team-a")
    target = await served(place, GatewaySettings(api_keys=True, tokens_per_minute=60))
    headers = {"authorization": f"Bearer {key}"}
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(base_url=(await target.current()).address, headers=headers, limits=limits) as client:
        whole = {**ASK, "stream": True, "max_tokens": 40}
        found = [await client.post("/v1/completions", json=whole) for _ in range(3)]
        assert [each.status_code for each in found] == [200, 200, 429]
        assert found[0].text.count("data: {") == 40
        assert found[0].text.endswith("data: [DONE]\n\n")


async def test_without_keys_the_rate_is_that_of_each_address(place: Place) -> None:
    target = await served(place, GatewaySettings(requests_per_minute=3))
    async with httpx.AsyncClient(base_url=(await target.current()).address) as client:
        assert [(await client.get("/v1/models")).status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    other = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
    async with httpx.AsyncClient(base_url=(await target.current()).address, transport=other) as client:
        assert (await client.get("/v1/models")).status_code == 200


async def test_the_port_for_metrics_shows_metrics_and_nothing_else_of_the_admin_interface(place: Place) -> None:
    await served(place, GatewaySettings())
    ports = place.target()._store.load().ports
    assert ports is not None
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports.metrics}") as client:
        assert "envoy_cluster_upstream_rq" in (await client.get("/metrics")).text
        for path in ("/", "/config_dump", "/quitquitquit", "/metrics/../quitquitquit", "/stats", "/healthcheck/fail"):
            assert (await client.post(path)).status_code == 404
            assert (await client.get(path)).status_code == 404
    socket_file = place.folder / "target" / "gateway" / "admin.sock"
    assert socket_file.stat().st_mode & 0o077 == 0
