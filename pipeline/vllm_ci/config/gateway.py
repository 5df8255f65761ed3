"""Section ``deploy.gateway:`` of ``vllm-ci.yaml``: the gateway of one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from vllm_ci.config import paths
from vllm_ci.config.section import Section
from vllm_ci.domain.gateway import GRPC_ROUTES, GatewaySettings, Tls, Waiting, Wire

_Port = Annotated[int, Field(ge=0, le=65535)]
_Count = Annotated[int, Field(ge=1, le=10**9)]


def _absolute(text: str) -> str:
    if text and not Path(text).is_absolute():
        raise ValueError(f"{text!r} is not an absolute path, e.g. /etc/ssl/private/gateway.pem")
    return text


_File = Annotated[paths.OfMachine, AfterValidator(_absolute)]


class GatewayConfig(Section):
    """Settings of the gateway of target `local`."""

    host: str = "127.0.0.1"
    """IP address to listen on; one that other machines can reach (`0.0.0.0`) needs `api_keys: true`."""
    port: _Port = 0
    """Port to listen on; 0: any free port, which is kept from then on."""
    metrics_port: _Port = 0
    """Port of `/metrics` (Prometheus) on 127.0.0.1; 0: any free port, which is kept from then on."""
    tls_certificate: _File = ""
    """PEM file with the certificate and its chain; empty: plain HTTP. It is read again when it is replaced."""
    tls_key: _File = ""
    """PEM file with the private key of the certificate."""
    api_keys: bool = False
    """Every request needs a key: `vllm-ci gateway keys add CHANNEL NAME`."""
    routes: list[str] = Field(default_factory=lambda: ["/v1/*"])
    """Paths that requests may have, `/v1/*` for everything below `/v1/`; all others get 404. With `protocol: grpc`: methods, by
    default those that clients need (`/vllm.grpc.engine.VllmEngine/Generate` and others); all others get UNIMPLEMENTED."""
    denied: list[str] = Field(default_factory=lambda: ["/v1/load_lora_adapter", "/v1/unload_lora_adapter"])
    """Paths that get 404 although `routes` allows them."""
    max_header_bytes: _Count = 16384
    """Limit of all headers of a request, a multiple of 1024 up to 98304; beyond it: 431."""
    max_headers: _Count = 64
    """Limit of the number of headers of a request; beyond it: 431."""
    max_body_bytes: _Count = 16 * 1024 * 1024
    """Limit of the body of a request; beyond it: 413."""
    max_open_requests: _Count = 4096
    """Limit of the requests that one release has open; beyond it: 503."""
    max_connections: _Count = 8192
    """Limit of the connections of all clients; a change takes effect when the gateway is started the next time."""
    requests_per_minute: Annotated[int, Field(ge=0, le=10**6)] = 0
    """Limit for each key, or for each client address without `api_keys`; 0: none. Beyond it: 429 with `Retry-After`."""
    tokens_per_minute: Annotated[int, Field(ge=0, le=10**9)] = 0
    """Limit of the tokens of each key, prompts and answers, by the usage that servers report; 0: none. Needs `api_keys`."""
    idle_timeout_s: Annotated[float, Field(gt=0, le=24 * 3600, allow_inf_nan=False)] = 1800.0
    """How long a request may go on without a byte in either direction, in seconds."""
    trusted_proxies: Annotated[int, Field(ge=0, le=16)] = 0
    """Number of proxies in front of the gateway whose `x-forwarded-for` is believed."""
    log_requests: bool = False
    """Record chat requests and their answers, only of keys that consent: `vllm-ci gateway keys consent`. Needs `api_keys`."""
    log_keep_days: Annotated[float, Field(gt=0, le=3650, allow_inf_nan=False)] = 30.0
    """How long what was recorded is kept."""
    log_max_bytes: Annotated[int, Field(ge=1024 * 1024, le=64 * 1024**3)] = 256 * 1024 * 1024
    """Limit of what is kept; the oldest rows are deleted first."""

    @model_validator(mode="after")
    def _usable(self) -> GatewayConfig:
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("TLS needs both `tls_certificate` and `tls_key`")
        self.domain()  # what holds for one protocol only is checked where the protocol is known
        return self

    def domain(self, protocol: Wire = "http", waiting: Waiting | None = None) -> GatewaySettings:
        """Convert to the type of the gateway.

        Args:
            protocol: What its servers speak.
            waiting: How requests wait for the first server.

        Raises:
            ValueError: The settings do not go together.
        """
        rest = self.model_dump(exclude={"tls_certificate", "tls_key", "routes", "denied"})
        tls = Tls(certificate=Path(self.tls_certificate), key=Path(self.tls_key)) if self.tls_certificate else None
        routes, denied = tuple(self.routes), tuple(self.denied)
        if protocol == "grpc":  # the defaults are paths of the other one
            routes = routes if "routes" in self.model_fields_set else GRPC_ROUTES
            denied = denied if "denied" in self.model_fields_set else ()
        return GatewaySettings(protocol=protocol, tls=tls, routes=routes, denied=denied, waiting=waiting, **rest)
