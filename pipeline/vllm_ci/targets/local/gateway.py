"""The process of a gateway: started, found again, and ended."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import anyio

from vllm_ci.deploy.target import Route
from vllm_ci.domain.errors import ErroredError, UsageError
from vllm_ci.domain.gateway import GatewaySettings
from vllm_ci.engines import detached
from vllm_ci.engines import ports as loopback
from vllm_ci.targets.envoy import authentication, files, listeners, program, routes
from vllm_ci.targets.envoy.bootstrap import bootstrap
from vllm_ci.targets.envoy.listeners import Ports
from vllm_ci.targets.envoy.tap import SHADOW, SHADOW_SOCKET
from vllm_ci.targets.local import certificates
from vllm_ci.targets.local.configuration import Configuration, encoded
from vllm_ci.targets.local.keys import KEY_FILE, KeyFile
from vllm_ci.targets.local.state import State, write

_START_S = 30.0
_LEFT_S = 3.0  # for the ports of a process that was killed
_LOG_BYTES = 64 * 1024 * 1024
# A listener that changes keeps its old connections until they end, or for so long.
_DRAIN_S = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """The Envoy of a deployment.

    Attributes:
        configuration: What it reads.
        mark: That of its process.
    """

    configuration: Configuration
    mark: str

    @property
    def folder(self) -> Path:
        """Its working directory."""
        return self.configuration.folder

    async def ensured(self, state: State, settings: GatewaySettings) -> State:
        """A gateway that runs with these settings, started if it does not; call it with the lock.

        Raises:
            ErroredError: It does not start, or refuses its configuration.
            UsageError: Envoy is not installed, or a port is taken.
        """
        running = await self._runs(state)
        if not running or settings.tls != state.settings.tls:
            # Envoy goes on with the certificate that it has: one that expired, or is just being replaced, must not keep
            # requests from being led back to a release that works.
            certificates.check(settings)
        ports = _ports(state, settings, running=running)
        state = replace(state, settings=settings, ports=ports)
        if not running:
            return await self._started(state, ports)
        self._prepare(settings)
        await self.configuration.apply(files.LISTENERS, listeners.listeners(settings, ports))
        await self._rotate()
        return state

    async def _runs(self, state: State) -> bool:
        """Whether the gateway runs; it is not ended only because it is slow, for that would break all streams.

        Raises:
            ErroredError: It runs and does not answer.
        """
        if state.envoy is None or not state.envoy.alive:
            return False
        end = time.monotonic() + _START_S
        while not await self.configuration.admin.answers():
            if not state.envoy.alive:
                return False
            if time.monotonic() > end:
                raise ErroredError(
                    f"the gateway (process {state.envoy.pid}) runs and does not answer",
                    why="the machine may be overloaded",
                    remedy=f"try again; if it stays so: kill {state.envoy.pid}, and deploy again",
                )
            await anyio.sleep(0.1)
        return True

    async def _started(self, state: State, ports: Ports) -> State:
        envoy = program.find()
        # One may be left of a process that was killed before it could write down what it had started.
        await anyio.to_thread.run_sync(detached.end_marked, self.mark)
        settings = state.settings
        await _free_ports(settings, ports)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._prepare(settings)
        write(self.folder / "bootstrap.json", encoded(bootstrap(settings)))
        self.configuration.put(files.LISTENERS, listeners.listeners(settings, ports))
        await self.configuration.shape(state)
        if not (self.folder / files.ROUTES).exists():
            self.configuration.put(files.ROUTES, [routes.routes(Route(), settings)])
        (self.folder / SHADOW_SOCKET).unlink(missing_ok=True)
        (self.folder / files.ADMIN_SOCKET).unlink(missing_ok=True)
        identity = detached.start(
            [str(envoy), *_arguments()],
            env={name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ},
            cwd=self.folder,
            log=self.folder / "envoy.log",
            mark=self.mark,
        )
        try:
            await self._listening(identity, {"gateway", "metrics", SHADOW} | ({"checks"} if ports.checks else set()))
        except BaseException:
            detached.end_marked(self.mark)
            raise
        return replace(state, envoy=identity)

    async def _listening(self, identity: detached.Identity, names: set[str]) -> None:
        end = time.monotonic() + _START_S
        while time.monotonic() < end and identity.alive:
            if await self.configuration.admin.answers() and await self.configuration.admin.listening() >= names:
                return
            await anyio.sleep(0.05)
        ended = not identity.alive
        raise ErroredError(
            "the gateway ended while it started" if ended else f"the gateway did not listen within {_START_S:g} s",
            why=f"the end of its log:\n{self.configuration.log(10)}",
            remedy="repair what its log names; another program may have taken its port",
        )

    async def end(self, identity: detached.Identity | None) -> None:
        """End the gateway, if one runs; what is open breaks."""
        if identity is not None:
            identity.signal(signal.SIGTERM)
            with anyio.move_on_after(5):
                while identity.alive:
                    await anyio.sleep(0.02)
        await anyio.to_thread.run_sync(detached.end_marked, self.mark)

    def _prepare(self, settings: GatewaySettings) -> None:
        """Write what a listener reads when it starts."""
        hashes = KeyFile(path=self.folder.parent / KEY_FILE).hashes()
        self.configuration.put(files.AUTHENTICATION, [authentication.accepted(hashes)])
        if not (self.folder / files.SHADOW_ROUTES).exists():
            self.configuration.put(files.SHADOW_ROUTES, [routes.shadow_routes(self.configuration.route())])
        if settings.tls is not None:
            self.configuration.put(files.CERTIFICATE, [listeners.certificate(settings)])

    async def _rotate(self) -> None:
        """Keep the access log from filling the disk: the one before is kept."""
        path = self.folder / files.ACCESS_LOG
        if path.exists() and path.stat().st_size > _LOG_BYTES:
            path.rename(path.with_name(f"{files.ACCESS_LOG}.1"))
            await self.configuration.admin.post("/reopen_logs")


def _arguments() -> list[str]:
    cores = len(os.sched_getaffinity(0))
    return [
        *("-c", "bootstrap.json", "--disable-hot-restart", "--log-level", "warning"),
        *("--concurrency", str(min(cores, 4)), "--drain-time-s", str(_DRAIN_S), "--file-flush-interval-msec", "100"),
    ]


def _ports(state: State, settings: GatewaySettings, *, running: bool) -> Ports:
    """The ports of last time, those that the settings name, and free ones for the rest."""
    old = state.ports or Ports(gateway=0, checks=0, metrics=0)
    apart = settings.api_keys or settings.tls is not None or settings.requests_per_minute
    found = Ports(
        gateway=settings.port or old.gateway or loopback.lasting(),
        checks=(old.checks or loopback.lasting()) if apart else 0,
        metrics=settings.metrics_port or old.metrics or loopback.lasting(),
    )
    if running and found.gateway != old.gateway:
        _check_port(settings.host, found.gateway)
    return found


async def _free_ports(settings: GatewaySettings, ports: Ports) -> None:
    """Check that nothing listens on the ports; a killed process of many threads may hold them for a moment after its end."""
    end = time.monotonic() + _LEFT_S
    for host, port in ((settings.host, ports.gateway), ("127.0.0.1", ports.checks), ("127.0.0.1", ports.metrics)):
        while port and loopback.taken(port, host) and time.monotonic() < end:
            await anyio.sleep(0.05)
        if port:
            _check_port(host, port)


def _check_port(host: str, port: int) -> None:
    if loopback.taken(port, host):
        raise UsageError(
            f"the gateway cannot listen on {host}, port {port}",
            why="another program listens on it, this user may not use it (below 1024), or the address is not of this machine",
            remedy="stop that program, or set another host or port in the gateway's settings",
        )
