"""Beds for the contract of targets: a target, revisions that it can serve, and a way to ask its gateway.

A target is added to ``TARGETS``: a function that opens a :class:`Bed`. What a bed cannot do is ``None``, and the cases that
need it are skipped with the reason.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import httpx
import pytest
from kubernetes import config

from standin import cluster, deployment
from standin.grpc_streams import client
from vllm_ci.config.deploy import DeploySettings
from vllm_ci.config.gateway import GatewayConfig
from vllm_ci.deploy.target import REVISION_HEADER, Revision, Serving, Target
from vllm_ci.domain.image import ImageRef
from vllm_ci.targets.kubernetes.cluster import Cluster
from vllm_ci.targets.kubernetes.target import KubernetesTarget
from vllm_ci.targets.memory import Behaviour, MemoryTarget


@dataclass(frozen=True, kw_only=True)
class Bed:
    """A target to test.

    Attributes:
        target: Opened for an empty deployment.
        again: Opens the same deployment another time, as another process would.
        revision: A revision that serves, by a letter; the same letter gives the same revision.
        broken: A revision whose servers never get ready, quickly.
        ask: Sends one request with these headers, and returns the name of the revision that answered.
    """

    target: Target
    again: Callable[[], AbstractAsyncContextManager[Target]]
    revision: Callable[[str], Revision]
    broken: Revision
    ask: Callable[[Mapping[str, str]], Awaitable[str]] | None = None


def revision_of(letter: str) -> Revision:
    """A revision that exists nowhere."""
    return Revision(
        commit=letter * 40,
        image=ImageRef(repository="example.com/team/app", digest="sha256:" + letter * 64),
        serving=Serving(argv=("serve", "--port", "{port}"), model="tiny", ready_timeout_s=5),
    )


@asynccontextmanager
async def memory(folder: Path) -> AsyncIterator[Bed]:
    """The double."""
    broken = revision_of("e")
    target = MemoryTarget(folder, faults={broken.name: Behaviour(never_ready=True)})

    @asynccontextmanager
    async def again() -> AsyncIterator[Target]:
        yield MemoryTarget(folder)

    async def ask(headers: Mapping[str, str]) -> str:
        route = (await target.current()).route
        if chosen := route.headers.get(headers.get(REVISION_HEADER, "")):
            return chosen
        before = dict(target.state.answered)
        await target.observe(seconds=1 / 10)
        served = [name for name, count in target.state.answered.items() if count > before.get(name, 0)]
        return next(each.revision for each in target.state.replicas.values() if each.name in served)

    yield Bed(target=target, again=again, revision=revision_of, broken=broken, ask=ask)


@asynccontextmanager
async def local(folder: Path) -> AsyncIterator[Bed]:
    """This machine: the real Envoy, and servers of ours in the place of vLLM."""
    deployment.needs_envoy()
    target = deployment.opened(folder)

    @asynccontextmanager
    async def again() -> AsyncIterator[Target]:
        yield deployment.opened(folder)

    async def ask(headers: Mapping[str, str]) -> str:
        async with httpx.AsyncClient(base_url=(await target.current()).address, headers=dict(headers)) as client:
            return (await client.post("/v1/completions", json={"model": "m"})).headers[REVISION_HEADER]

    try:
        yield Bed(target=target, again=again, revision=deployment.revision, broken=deployment.revision("e", "dies"), ask=ask)
    finally:
        await target.close()


@asynccontextmanager
async def local_grpc(folder: Path) -> AsyncIterator[Bed]:
    """This machine, with servers that speak gRPC."""
    deployment.needs_envoy()
    settings = GatewayConfig().domain("grpc")
    target, made = deployment.opened(folder, settings), partial(deployment.revision, protocol="grpc")

    @asynccontextmanager
    async def again() -> AsyncIterator[Target]:
        yield deployment.opened(folder, settings)

    def generated(address: str, headers: Mapping[str, str]) -> str:
        with ExitStack() as stack:
            return client(stack, address).generate(metadata=tuple(headers.items())).metadata[REVISION_HEADER]

    async def ask(headers: Mapping[str, str]) -> str:
        address = (await target.current()).address
        return await anyio.to_thread.run_sync(generated, address, headers)

    try:
        yield Bed(target=target, again=again, revision=made, broken=made("e", "dies"), ask=ask)
    finally:
        await target.close()


@asynccontextmanager
async def kubernetes(folder: Path) -> AsyncIterator[Bed]:
    """A real API server and its controllers; nodes and the Gateway are played, so nobody answers requests."""
    server = cluster.shared()
    if not cluster.definitions():
        pytest.skip("no definitions of the Gateway API: set VLLM_CI_TEST_CRDS to a folder with them (docs/kubernetes.md)")
    deployment_name = f"t{secrets.token_hex(4)}"
    settings = DeploySettings.model_validate(
        {"target": "kubernetes", "kubernetes": {"route": {"gateway": "public", "hostnames": ["llm.example.com"]}}}
    )

    @asynccontextmanager
    async def again() -> AsyncIterator[KubernetesTarget]:
        client = config.new_client_from_config(str(server.kubeconfig))
        opened = Cluster(client, "default", folder / "discovery.json")
        try:
            yield KubernetesTarget(opened, deployment_name, settings)
        finally:
            await opened.close()

    async with again() as target:
        try:
            yield Bed(target=target, again=again, revision=revision_of, broken=revision_of("e"))
        finally:
            await target.close()


TARGETS: dict[str, Callable[[Path], AbstractAsyncContextManager[Bed]]] = {
    "kubernetes": kubernetes,
    "local": local,
    "local, gRPC": local_grpc,
    "memory": memory,
}
