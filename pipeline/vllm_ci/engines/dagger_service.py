"""A service in a container, held for as long as its context lasts."""

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
    """Something that listens. Its guard answers for it; without one (it is somebody else's) nothing more is known of it."""

    name: str
    url: str = ""
    ready_s: float = math.nan
    port: int
    handle: dagger.Service
    token: str = ""
    _control: str = field(default="", init=False)

    async def locate(self, caller: Caller, wanted: int) -> None:
        """Find out where it and its guard listen."""
        self.url = f"http://{await caller.endpoint(self.handle, self.port, wanted=wanted)}"
        self._control = f"http://{await caller.endpoint(self.handle, CONTROL_PORT)}"

    async def log(self) -> str:
        """All it wrote so far."""
        if not self._control:
            return ""
        try:
            return (await self._ask("/log")).text
        except httpx.HTTPError as error:
            return f"(the log is out of reach: {error})"

    async def alive(self) -> bool:
        """Whether its process still runs."""
        if not self._control:
            return True
        try:
            answer = await self._ask("/alive")
        except httpx.TimeoutException:
            return True  # a busy machine is no death
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
        spec: What was asked for.
        container: With everything mounted, the guard included.
        argv: Command line of the service, guarded.
        ready: Command line of its check, guarded.
    """

    spec: ServiceSpec
    container: dagger.Container
    argv: tuple[str, ...]
    ready: tuple[str, ...]

    def service(self) -> dagger.Service:
        """Whoever starts it waits until it is ready, with the patience that its spec asks for."""
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
    """Start it, wait until it is ready, hold, stop.

    Args:
        guarded: The service.
        caller: Who wants to reach it.
        wanted: Port it shall have at the caller's, 0 for any.
        shared: Something that only the callers know who share it; it is not stopped then, it ends with their session.

    Raises:
        ServiceError: It died, or did not become ready in time.
    """
    spec = guarded.spec
    # The same token makes it the same service, which an engine starts once.
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
                why=f"the last check, and the end of the log:\n{log}",
                remedy="give it more time (server.ready_timeout_s), or a smaller model",
                log=log,
            ) from error
        raise ServiceError(
            f"{spec.name} ended with exit code {error.exit_code} before it was ready",
            why="the end of its log:\n" + "\n".join(log.splitlines()[-25:]),
            remedy="correct what the log names, then try it by hand: vllm-ci serve",
            log=log,
            ended=error.exit_code,
        ) from error


async def _stop(service: dagger.Service, grace_s: float) -> None:
    """Ask it to end, and end it when it does not; that it is gone already is no error."""
    try:
        with anyio.move_on_after(grace_s):
            await service.stop()
            return
        await service.stop(kill=True)
    except dagger.DaggerError:
        return
