"""Run a service in a container for the duration of a context."""

from __future__ import annotations

import hashlib
import math
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import anyio
import dagger
import httpx
from dagger import dag

from vllm_ci.domain.errors import ServiceError
from vllm_ci.domain.program import ServiceSpec
from vllm_ci.engines import guard
from vllm_ci.engines.dagger_caller import Caller
from vllm_ci.engines.dagger_errors import translated

CONTROL_PORT = 4711
PORT = 8000
_ASK_TIMEOUT_S = 10.0


@dataclass(kw_only=True)
class DaggerService:
    """A service. Its guard reports its state; an external service has no guard, and its state is unknown."""

    name: str
    url: str = ""
    ready_s: float = math.nan
    port: int
    handle: dagger.Service
    token: str = ""
    _control: str = field(default="", init=False)

    async def locate(self, caller: Caller, wanted: int) -> None:
        """Look up the addresses of the service and its guard."""
        self.url = f"http://{await caller.endpoint(self.handle, self.port, wanted=wanted)}"
        self._control = f"http://{await caller.endpoint(self.handle, CONTROL_PORT)}"

    async def log(self) -> str:
        """The log so far."""
        if not self._control:
            return ""
        try:
            return (await self._ask("/log")).text
        except httpx.HTTPError as error:
            return f"(the log cannot be read: {error})"

    async def alive(self) -> bool:
        """Whether the process is still running."""
        if not self._control:
            return True
        try:
            answer = await self._ask("/alive")
        except httpx.TimeoutException:
            return True  # a slow machine does not mean that it died
        except httpx.HTTPError:
            return False
        return answer.status_code == httpx.codes.OK and bool(answer.json()["alive"])

    async def _ask(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=_ASK_TIMEOUT_S) as client:
            return await client.get(self._control + path, headers={"Authorization": f"Bearer {self.token}"})


@dataclass(frozen=True, kw_only=True)
class Guarded:
    """A service before it is started.

    Attributes:
        spec: The requested service.
        container: Container with all mounts, including the guard.
        argv: Command line of the service, run by the guard.
        ready: Command line of its readiness check, run by the guard.
    """

    spec: ServiceSpec
    container: dagger.Container
    argv: tuple[str, ...]
    ready: tuple[str, ...]

    def service(self) -> dagger.Service:
        """The Dagger service; starting it waits until it is ready, with the timeout of its spec."""
        interval = f"{max(self.spec.ready_interval_s, 0.1):g}s"
        return (
            self.container.with_exposed_port(self.spec.port or PORT)
            .with_docker_healthcheck(
                list(self.ready),
                interval=interval,
                start_interval=interval,
                start_period=f"{self.spec.ready_timeout_s:g}s",
                timeout=f"{max(10.0, self.spec.ready_timeout_s / 4):g}s",
                retries=1,
            )
            .as_service(args=list(self.argv))
        )


@asynccontextmanager
async def held(guarded: Guarded, caller: Caller, *, wanted: int, shared: str = "") -> AsyncIterator[DaggerService]:
    """Start a service, wait until it is ready, and stop it when the context ends.

    Args:
        guarded: The service.
        caller: The caller that connects to it.
        wanted: Local port for the caller, 0 for any.
        shared: A secret of the callers that share the service; it is then not stopped, and ends with their session.

    Raises:
        ServiceError: The service died, or did not become ready in time.
    """
    spec = guarded.spec
    # With the same token it is the same service, which an engine starts once.
    token = hashlib.sha256(f"guard {shared}".encode()).hexdigest()[:32] if shared else secrets.token_urlsafe(24)
    container = (
        guarded.container.with_secret_variable(guard.TOKEN, dag.set_secret(f"guard-{token[:8]}", token))
        .with_env_variable(guard.UNIQUE, token[:8])
        .with_exposed_port(CONTROL_PORT)
    )
    service = replace(guarded, container=container).service()
    made = DaggerService(name=spec.name, port=spec.port or PORT, handle=service, token=token)
    try:
        with translated(f"start {spec.name}"):
            begun = time.monotonic()
            await _started(spec, service, guarded.ready)
            made.ready_s = time.monotonic() - begun
            await made.locate(caller, wanted)
        yield made
    finally:
        if not shared:
            with anyio.CancelScope(shield=True):
                await _stop(service, spec.stop_grace_s)


async def _started(spec: ServiceSpec, service: dagger.Service, ready: tuple[str, ...]) -> None:
    try:
        await service.start()
    except dagger.ExecError as error:
        log = "\n".join(part for part in (error.stdout, error.stderr) if part)
        if tuple(error.command) == ready:
            raise ServiceError(
                f"{spec.name} was not ready after {spec.ready_timeout_s:.0f} s",
                why=f"output of the last check, and the end of the log:\n{log}",
                remedy="give it more time (server.ready_timeout_s), or a smaller model",
                log=log,
            ) from error
        raise ServiceError(
            f"{spec.name} ended with exit code {error.exit_code} before it was ready",
            why="the end of its log:\n" + "\n".join(log.splitlines()[-25:]),
            remedy="fix the error in the log, then try again: vllm-ci serve",
            log=log,
            ended=error.exit_code,
        ) from error


async def _stop(service: dagger.Service, grace_s: float) -> None:
    """Stop a service, and kill it after the grace period; it may be gone already."""
    try:
        with anyio.move_on_after(grace_s):
            await service.stop()
            return
        await service.stop(kill=True)
    except dagger.DaggerError:
        return
