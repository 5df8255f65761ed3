"""The real vLLM behind the real Envoy: streams through a change of the release, and the security stage through the gateway."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import aiohttp
import anyio
import pytest

from e2e.conftest import environment, noted, vllm_ci
from standin.deployment import needs_envoy
from standin.waker import awake
from vllm_ci.config.load import load
from vllm_ci.deploy.target import Revision, Route, Serving
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.events import ignore
from vllm_ci.domain.gateway import GatewaySettings, Waiting
from vllm_ci.domain.image import ImageRef
from vllm_ci.engines.host import HostEngine
from vllm_ci.engines.host_directory import HostDirectory
from vllm_ci.images.store import image_config
from vllm_ci.pipeline import serving
from vllm_ci.pipeline.source import Source
from vllm_ci.targets.local import starts
from vllm_ci.targets.local.key_changes import Keys
from vllm_ci.targets.local.launcher import ImageLauncher
from vllm_ci.targets.local.target import LocalTarget

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800), pytest.mark.anyio]

STREAMS, TOKENS = 8, 400
WAITING = Waiting(queue=STREAMS, wait_s=300)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def revisions(folder: Path, digest: str) -> tuple[Revision, Revision]:
    """Two revisions that differ in their commit only."""
    loaded = load(folder / "vllm-ci.yaml")
    project, image = loaded.project("quickstart"), ImageRef(repository="quickstart", digest=digest)
    async with HostEngine() as engine:
        files = engine.directory(folder)
        source = Source(commit=Commit(sha="a" * 40), checkout=files, project=files)
        made = await serving.model(engine, project, source, image, ignore)
    argv = serving.command(project, image_config(digest), checkpoint="{model}")
    checkpoint = str(cast("HostDirectory", made).path)
    served = Serving(argv=argv, env=dict(project.server.env), model="tiny", checkpoint=checkpoint, drain_s=120)
    return Revision(commit="a" * 40, image=image, serving=served), Revision(commit="b" * 40, image=image, serving=served)


async def whole(client: aiohttp.ClientSession, address: str) -> bool:
    """Whether a stream has all its tokens, the reason of its end, and its last event."""
    body = {"model": "tiny", "prompt": "hello", "max_tokens": TOKENS, "ignore_eos": True, "stream": True}
    tokens, finished, done = 0, "", False
    async with client.post(f"{address}/v1/completions", json={**body, "stream_options": {"include_usage": True}}) as answer:
        async for line in answer.content:
            text = line.decode().strip().removeprefix("data: ")
            done |= text == "[DONE]"
            if text.startswith("{"):
                event: dict[str, Any] = json.loads(text)
                tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
                finished = next((each["finish_reason"] or finished for each in event["choices"]), finished)
    return (tokens, finished, done) == (TOKENS, "length", True)


def security(folder: Path, address: str, key: str) -> dict[str, Any]:
    """The security stage through the gateway, without a configuration that accepts anything."""
    command = [
        sys.executable,
        "-m",
        "vllm_ci",
        "test",
        "--url",
        address,
        "--api-key-env",
        "KEY",
        "--stage",
        "security",
        "--json",
    ]
    done = subprocess.run(command, cwd=folder, env=environment() | {"KEY": key}, capture_output=True, text=True, check=False)
    found: dict[str, Any] = json.loads(done.stdout)["stages"][0]
    return found


async def wakes_for_all(target: LocalTarget, name: str) -> None:
    """Scaled to zero, the release starts one server for eight streams that come at once, and each of them is whole."""
    assert await target.rest(lambda: False)
    current = await target.current()
    assert (current.asleep, current.replicas) == (True, ())
    found: list[bool] = []

    async def one(client: aiohttp.ClientSession) -> None:
        found.append(await whole(client, current.checks))

    async with awake(target, waiting=WAITING), aiohttp.ClientSession() as client, anyio.create_task_group() as group:
        for _ in range(STREAMS):
            group.start_soon(one, client)
    assert found == [True] * STREAMS
    kept = starts.read(target.folder)
    assert (kept.succeeded, kept.failed, kept.refused) == (1, 0, 0)
    assert kept.last is not None
    assert kept.last.waited == STREAMS
    assert [each.revision for each in (await target.current()).replicas] == [name]


async def test_releases_change_and_rest_without_a_broken_stream_and_only_the_api_is_open(project: Path, tmp_path: Path) -> None:
    needs_envoy()
    built = vllm_ci(project, "build", "--json")
    assert built.code == 0, built.stderr[-4000:]
    a, b = await revisions(project, built.json["image"]["digest"])
    folder = tmp_path / "target"
    target = LocalTarget(
        folder=folder,
        launcher=ImageLauncher(repository="quickstart"),
        settings=GatewaySettings(api_keys=True, waiting=WAITING),
    )
    try:
        await target.start(a, 1)
        await target.route(Route(weights={a.name: 100}))
        current, key = await target.current(), await Keys(folder=folder).add("suite")
        stage = await anyio.to_thread.run_sync(security, tmp_path, current.address, key)
        # The gateway cannot know which requests vLLM answers with 500 instead of 400.
        assert [each for each in noted(stage) if "test_a_hostile_request_does_no_harm" not in each["case"]] == []
        assert stage["cases"]["passed"] > 200
        await target.start(b, 1)
        found: list[bool] = []

        async def one(client: aiohttp.ClientSession) -> None:
            found.append(await whole(client, current.checks))

        async with aiohttp.ClientSession() as client, anyio.create_task_group() as group:
            for _ in range(STREAMS):
                group.start_soon(one, client)
            while await target._configuration.admin.open_requests(a.name) < STREAMS:
                await anyio.sleep(0.02)
            await target.route(Route(weights={b.name: 100}))
            begun = time.monotonic()
            await target.route(Route(weights={a.name: 100}))
            assert time.monotonic() - begun < 1
            await target.route(Route(weights={b.name: 100}))
            assert (await target.drain(a.name, deadline_s=300)).open == 0
            await target.stop(a.name)
        assert found == [True] * STREAMS
        assert {each.revision for each in (await target.current()).replicas} == {b.name}
        await wakes_for_all(target, b.name)
    finally:
        await target.close()
