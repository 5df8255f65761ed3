"""Settings of the gateway: the one address that requests of a deployment on one machine come in at."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Wire = Literal["http", "grpc"]
"""What servers speak: vLLM's OpenAI-compatible API, or its gRPC service; one process serves one of them."""

_ROUTE = re.compile(r"(?:/[A-Za-z0-9._~-]+)+(?:/\*)?|/\*")
_GRPC_ROUTE = re.compile(r"/[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)+/(?:[A-Za-z0-9_]+|\*)")
_ENGINE = "/vllm.grpc.engine.VllmEngine/"
GRPC_ROUTES = (
    *(f"{_ENGINE}{name}" for name in ("Generate", "Embed", "HealthCheck", "GetModelInfo", "GetServerInfo", "GetLoads")),
    f"{_ENGINE}GetTokenizer",
    *("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"),
)
"""What clients of the gRPC service need. Left out are methods that end, slow down or show what others do: Abort, FlushCache,
StartProfile, StopProfile, SubscribeKvEvents."""


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Certificate and private key in PEM files; they are read again when the files are replaced."""

    certificate: Path
    key: Path


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """How requests wait for the first server of a deployment that is scaled to zero.

    Attributes:
        queue: So many at most; others are refused.
        wait_s: How long one waits at most.
    """

    queue: int
    wait_s: float


@dataclass(frozen=True, kw_only=True)
class GatewaySettings:
    """What the gateway listens on, and what it lets through.

    Attributes:
        protocol: What servers speak, and so what clients do.
        host: Address to listen on; one that other machines can reach needs ``api_keys``.
        port: Port to listen on; 0: any free port, which is kept from then on.
        metrics_port: Port of ``/metrics`` on the loopback interface; 0: any free port, which is kept from then on.
        tls: Certificate; without one the gateway speaks plain HTTP.
        api_keys: Every request needs a key of the deployment.
        routes: Paths that requests may have: ``/v1/models``, or ``/v1/*`` for everything below. All others get 404. Of gRPC,
            methods as ``/package.Service/Method``, or ``/package.Service/*``; all others get UNIMPLEMENTED.
        denied: Paths that get 404 although ``routes`` allows them.
        max_header_bytes: Limit of all headers of a request, in steps of 1024.
        max_headers: Limit of the number of headers of a request.
        max_body_bytes: Limit of the body of a request.
        max_open_requests: Limit of the requests that one revision has open or waiting; beyond it requests get 503.
        max_connections: Limit of the connections of all clients.
        requests_per_minute: Limit for each key, or for each client address without ``api_keys``; 0: none.
        tokens_per_minute: Limit of the tokens for each key, prompts and answers together; needs ``api_keys``; 0: none.
        idle_timeout_s: How long a request may go on without a byte in either direction.
        trusted_proxies: Number of proxies in front of the gateway whose ``x-forwarded-for`` is believed.
        log_requests: Chat requests of keys that consent, and their answers, are recorded; needs ``api_keys``.
        log_keep_days: How long they are kept.
        log_max_bytes: Limit of what is kept; the oldest are deleted first.
        waiting: How requests wait where the deployment may be scaled to zero; ``None``: it always has a server.
    """

    protocol: Wire = "http"
    host: str = "127.0.0.1"
    port: int = 0
    metrics_port: int = 0
    tls: Tls | None = None
    api_keys: bool = False
    routes: tuple[str, ...] = ("/v1/*",)
    denied: tuple[str, ...] = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")
    max_header_bytes: int = 16 * 1024
    max_headers: int = 64
    max_body_bytes: int = 16 * 1024 * 1024
    max_open_requests: int = 4096
    max_connections: int = 8192
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    idle_timeout_s: float = 1800.0
    trusted_proxies: int = 0
    log_requests: bool = False
    log_keep_days: float = 30.0
    log_max_bytes: int = 256 * 1024 * 1024
    waiting: Waiting | None = None

    def __post_init__(self) -> None:
        for path in (*self.routes, *self.denied):
            if not _ROUTE.fullmatch(path) or {".", ".."} & set(path.split("/")):
                raise ValueError(f"not a path that a route can have: {path!r} (for example /v1/models, or /v1/* for all below)")
        try:
            local = ipaddress.ip_address(self.host).is_loopback
        except ValueError as error:
            raise ValueError(f"host is an IP address such as 127.0.0.1 or 0.0.0.0, not {self.host!r}") from error
        if not local and not self.api_keys:
            raise ValueError(f"other machines can reach {self.host}, so the gateway needs `api_keys: true` there")
        if not self.routes:
            raise ValueError("no route is allowed, so the gateway would answer nothing")
        if any(not 0 <= port <= 65535 for port in (self.port, self.metrics_port)):
            raise ValueError("a port is a number from 0 to 65535")
        if self.max_header_bytes % 1024 or not 1024 <= self.max_header_bytes <= 96 * 1024:
            raise ValueError("max_header_bytes is a multiple of 1024, from 1024 to 98304")
        counts = (self.max_headers, self.max_body_bytes, self.max_open_requests, self.max_connections)
        if self.tokens_per_minute and not self.api_keys:
            raise ValueError("`tokens_per_minute` is a limit for each key, so it needs `api_keys: true`")
        rates = (self.requests_per_minute, self.tokens_per_minute, self.trusted_proxies)
        self._check_log()
        self._check_grpc()
        if min(counts) < 1 or self.idle_timeout_s <= 0 or min(rates) < 0:
            raise ValueError("limits and timeouts of the gateway are above 0")

    def _check_log(self) -> None:
        if self.log_requests and not self.api_keys:
            raise ValueError("`log_requests` records keys that consent, so it needs `api_keys: true`")
        if self.log_keep_days <= 0 or self.log_max_bytes < 1024 * 1024:
            raise ValueError("log_keep_days is above 0, and log_max_bytes at least 1048576")

    def _check_grpc(self) -> None:
        if self.protocol != "grpc":
            return
        for path in (*self.routes, *self.denied):
            if not _GRPC_ROUTE.fullmatch(path):
                raise ValueError(
                    f"not a gRPC method: {path!r} (for example {GRPC_ROUTES[0]}, or {_ENGINE}* for the whole service)"
                )
            if path.startswith("/grpc.reflection.") and path in self.routes:
                raise ValueError(
                    "reflection is a stream of requests, which the gateway lets nobody open: it takes requests whole"
                )
        for name, needs in (("tokens_per_minute", "usage"), ("log_requests", "chat requests"), ("waiting", "scaling to zero")):
            if getattr(self, name):
                raise ValueError(f"`{name}` ({needs}) works with HTTP only, and this gateway serves gRPC")
