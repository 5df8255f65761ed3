"""The files that the gateway of a deployment reads, and whether it has taken them."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from vllm_ci.deploy.target import Route
from vllm_ci.domain.errors import ErroredError
from vllm_ci.domain.gateway import GatewaySettings
from vllm_ci.targets.envoy import authentication, files, routes, waker
from vllm_ci.targets.envoy.admin import Admin
from vllm_ci.targets.envoy.clusters import Endpoint, cluster, endpoints
from vllm_ci.targets.envoy.files import Json
from vllm_ci.targets.envoy.tap import shadow_cluster
from vllm_ci.targets.local.state import State, write

_APPLY_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """The configuration of the Envoy that runs in ``folder``."""

    folder: Path

    @property
    def admin(self) -> Admin:
        """Its admin interface."""
        return Admin(folder=self.folder)

    async def shape(self, state: State, *, more: Collection[str] = ()) -> None:
        """Bring clusters and endpoints in line with the replicas; call it with the lock.

        Args:
            state: With the replicas.
            more: Revisions that get a cluster as well.

        Raises:
            ErroredError: The disk is full, or Envoy refuses them; the old ones stay.
        """
        route = self.route()
        there = {each.revision for each in state.replicas.values()} | set(route.revisions) | set(state.wanted) | set(more)
        retired = set(state.retired)
        names = there | retired
        main = max(route.weights, key=lambda name: route.weights[name], default="")
        for name in sorted(names):
            late = _endpoints(state, main) if name in retired and main != name else []
            self.put(files.endpoints_file(name), [endpoints(name, [*_endpoints(state, name), *late])])
        found = [shadow_cluster(state.settings), *(cluster(name, state.settings) for name in sorted(names))]
        found += [waker.cluster(state.settings.waiting)] if state.settings.waiting else []
        await self.apply(files.CLUSTERS, found)
        for left in self.folder.glob(files.endpoints_file("*")):
            if left.name not in {files.endpoints_file(name) for name in names}:
                left.unlink(missing_ok=True)

    async def turn(self, route: Route, settings: GatewaySettings, *, asleep: str = "") -> None:
        """Share requests as ``route`` says; those for the revision ``asleep`` wait until it has a server.

        Raises:
            ErroredError: The disk is full, or Envoy refuses it; the old route stays.
        """
        if route.mirror:  # the way of the copies is there before the first copy
            await self.apply(files.SHADOW_ROUTES, [routes.shadow_routes(route)])
        await self.apply(files.ROUTES, [routes.routes(route, settings, asleep=asleep)])
        await self.apply(files.SHADOW_ROUTES, [routes.shadow_routes(route)])

    def route(self) -> Route:
        """The route in effect: that of the file.

        Raises:
            ErroredError: It cannot be read, so it is not known who gets requests.
        """
        path = self.folder / files.ROUTES
        try:
            return routes.route_of(json.loads(path.read_bytes())["resources"][0])
        except FileNotFoundError:
            return Route()
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ErroredError(
                f"{path} cannot be read, so it is not known who gets requests",
                why=f"{type(error).__name__}: {error}",
                remedy="the gateway goes on with the last one; if the content is broken, move the file away and deploy again",
            ) from error

    async def apply(self, file: str, resources: Iterable[Json]) -> None:
        """Write a file and wait until Envoy has taken it.

        Raises:
            ErroredError: Envoy refuses it, does not answer or does not take it in time; then the old file is there.
        """
        path = self.folder / file
        old = path.read_bytes() if path.exists() else None
        if await self.admin.gone():
            self.put(file, resources)
            return
        before = (await self.admin.version(file))[1]
        version = self.put(file, resources)
        if not version:
            return
        end = time.monotonic() + _APPLY_S
        while time.monotonic() < end:
            taken, refused = await self.admin.version(file)
            if taken == version:
                return
            if refused > before:
                break
            await anyio.sleep(0.01)
        if old is not None:
            write(path, old)
        raise ErroredError(
            f"the gateway did not take the new {file}; the old one stays in effect",
            why=f"the end of its log:\n{self.log(3)}",
            remedy="report this with the log; requests are served as before",
        )

    async def take_keys(self, hashes: Mapping[str, str]) -> None:
        """Accept these keys and no others, from now on, if the gateway asks for keys; call it with the lock.

        Raises:
            ErroredError: The disk is full, or Envoy refuses them; the old ones stay.
        """
        await self.apply(files.AUTHENTICATION, [authentication.accepted(hashes)])

    def log(self, lines: int) -> str:
        """The end of Envoy's log."""
        try:
            text = (self.folder / "envoy.log").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return "(there is none)"
        return "\n".join(text.splitlines()[-lines:])

    def put(self, file: str, resources: Iterable[Json]) -> str:
        """Write a file with a new version, unless it holds the same already; the version, or nothing.

        Raises:
            ErroredError: The disk is full, or the folder cannot be written; the old file stays.
        """
        wanted = list(resources)
        path = self.folder / file
        if path.exists() and _resources(path) == json.loads(json.dumps(wanted)):
            return ""
        version = str(time.time_ns())
        write(path, encoded(files.response(version, wanted)))
        return version


def _endpoints(state: State, revision: str) -> list[Endpoint]:
    return [
        Endpoint(port=kept.port, draining=kept.phase == "draining")
        for _, kept in sorted(state.of(revision).items())
        if kept.phase in ("ready", "draining") and kept.process.alive
    ]


def _resources(path: Path) -> Any:
    try:
        content: Mapping[str, Any] = json.loads(path.read_bytes())
    except ValueError:
        return None
    return content.get("resources")


def encoded(content: Json) -> bytes:
    """The content of a file."""
    return json.dumps(content, indent=1).encode()
