"""Asks a running Envoy, through its admin interface on a Unix socket."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx

from vllm_ci.domain.errors import ErroredError
from vllm_ci.targets.envoy.files import (
    ADMIN_SOCKET,
    AUTHENTICATION,
    CLUSTER_PREFIX,
    CLUSTERS,
    LISTENERS,
    ROUTES,
    SHADOW_ROUTES,
)

_TIMEOUT_S = 10.0
_CUT, _AGAIN_S = 20, 0.05
# Envoy is just ending: soon it takes no connections at all.
_ENDING = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
_SUBSCRIPTIONS = {
    ROUTES: "http.gateway.rds.gateway",
    SHADOW_ROUTES: "http.shadow.rds.shadow",
    CLUSTERS: "cluster_manager.cds",
    LISTENERS: "listener_manager.lds",
    AUTHENTICATION: "extension_config_discovery.http_filter.vllm_ci.keys",
}


class GoneError(ErroredError):
    """No Envoy runs; one that is only slow raises :class:`ErroredError`."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """An endpoint as Envoy sees it.

    Attributes:
        healthy: It gets requests.
        unanswered: It does not answer health checks.
        active: Requests that it has open.
    """

    healthy: bool
    unanswered: bool
    active: int


@dataclass(frozen=True, kw_only=True)
class Admin:
    """The admin interface of the Envoy that runs in ``folder``."""

    folder: Path

    async def answers(self) -> bool:
        """Whether Envoy is live."""
        try:
            return (await self._get("/ready")).status_code in (200, 503)
        except ErroredError:
            return False

    async def gone(self) -> bool:
        """Whether no Envoy runs.

        Raises:
            ErroredError: One runs, and does not answer.
        """
        try:
            await self._get("/ready")
        except GoneError:
            return True
        return False

    async def counters(self, names: str) -> dict[str, int]:
        """Counters and gauges whose name matches a regular expression."""
        return {name: value for name, value in (await self._stats(names)).items() if isinstance(value, int)}

    async def hosts(self) -> Mapping[str, Mapping[int, Host]]:
        """Endpoints by revision and port."""
        found = (await self._get("/clusters", format="json")).json().get("cluster_statuses", [])
        clusters = {
            each["name"].removeprefix(CLUSTER_PREFIX): each for each in found if each["name"].startswith(CLUSTER_PREFIX)
        }
        return {name: dict(_host(each) for each in found.get("host_statuses", ())) for name, found in clusters.items()}

    async def open_requests(self, revision: str) -> int:
        """Requests that a revision has open or waiting, copies included; none where no Envoy runs.

        Raises:
            ErroredError: One runs, and does not answer.
        """
        prefix = f"cluster.{CLUSTER_PREFIX}{revision}."
        try:
            found = await self.counters(f"^{re.escape(prefix)}upstream_rq_(pending_)?active$")
        except GoneError:
            return 0
        return found.get(f"{prefix}upstream_rq_active", 0) + found.get(f"{prefix}upstream_rq_pending_active", 0)

    async def listening(self) -> set[str]:
        """Names of the listeners that are active."""
        found = (await self._get("/listeners", format="json")).json().get("listener_statuses", [])
        return {each["name"] for each in found}

    async def version(self, file: str) -> tuple[str, int]:
        """The version of a file that is in effect, and how many were refused since Envoy's start."""
        prefix = _SUBSCRIPTIONS[file]
        found = await self._stats(f"^{re.escape(prefix)}\\.(version_text|update_rejected|update_failure)$")
        refused = int(found.get(f"{prefix}.update_rejected", 0)) + int(found.get(f"{prefix}.update_failure", 0))
        return str(found.get(f"{prefix}.version_text", "")), refused

    async def post(self, path: str) -> None:
        """Request an action (``/reopen_logs``)."""
        async with self._client() as client:
            await _asked(client.post(path))

    async def _stats(self, names: str) -> dict[str, int | str]:
        found = (await self._get("/stats", format="json", filter=names)).json()["stats"]
        return {each["name"]: each["value"] for each in found if "name" in each}

    async def _get(self, path: str, **parameters: str) -> httpx.Response:
        async with self._client() as client:
            for remaining in reversed(range(_CUT + 1)):
                try:
                    return await client.get(path, params=parameters)
                except httpx.HTTPError as error:
                    if not remaining or not isinstance(error, _ENDING):
                        raise _unreachable(error) from error
                await anyio.sleep(_AGAIN_S)
        raise AssertionError

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        # The path of a socket has 107 bytes at most (unix(7)), and that of the folder may be longer.
        try:
            folder = os.open(self.folder, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            raise _unreachable(error) from error
        try:
            # Without certificates to load, a client costs a millisecond instead of thirty.
            transport = httpx.AsyncHTTPTransport(uds=f"/proc/self/fd/{folder}/{ADMIN_SOCKET}", verify=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://envoy", timeout=_TIMEOUT_S) as client:
                yield client
        finally:
            os.close(folder)


async def _asked(request: Any) -> httpx.Response:
    try:
        answer: httpx.Response = await request
    except httpx.HTTPError as error:
        raise _unreachable(error) from error
    return answer


def _unreachable(error: Exception) -> ErroredError:
    kind = GoneError if isinstance(error, OSError | httpx.ConnectError) else ErroredError
    return kind(
        "the gateway cannot be reached",
        why=f"its admin socket does not answer ({type(error).__name__}: {error})",
        remedy="deploy again, which starts a gateway that has ended; its log is envoy.log in the folder of the deployment",
    )


def _host(found: Mapping[str, Any]) -> tuple[int, Host]:
    health = found.get("health_status", {})
    unanswered = bool(health.get("failed_active_health_check"))
    bad = unanswered or health.get("failed_outlier_check")
    active = next((int(each.get("value", 0)) for each in found.get("stats", ()) if each["name"] == "rq_active"), 0)
    healthy = not bad and health.get("eds_health_status", "HEALTHY") in ("HEALTHY", "UNKNOWN")
    return found["address"]["socket_address"]["port_value"], Host(healthy=healthy, unanswered=unanswered, active=active)
