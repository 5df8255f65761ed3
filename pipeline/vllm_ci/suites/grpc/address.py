"""Where a gRPC service is. Standard library only: the command line reads addresses without the extra ``grpc``."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from urllib.parse import urlsplit

EXTRA = "vllm-ci[grpc]"
_PACKAGES = ("grpc", "grpc_health", "grpc_reflection", "google.protobuf")
_SCHEMES = {"grpc": False, "grpcs": True}


@dataclass(frozen=True, kw_only=True)
class Address:
    """Host and port of a gRPC service.

    Attributes:
        host: Host name or IP address, without brackets.
        port: Its port.
        tls: Whether the connection is encrypted.
    """

    host: str
    port: int
    tls: bool = False

    def __str__(self) -> str:
        return f"{'grpcs://' if self.tls else ''}{self.target}"

    @property
    def target(self) -> str:
        """As gRPC's clients take it: ``HOST:PORT``, with an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(text: str) -> Address:
    """Read ``HOST:PORT``, ``grpc://HOST:PORT`` or ``grpcs://HOST:PORT`` (TLS).

    Raises:
        ValueError: It is none of these; the message says what is wrong.
    """
    scheme, separator, rest = text.strip().partition("://")
    scheme, rest = (scheme.lower(), rest) if separator else ("grpc", scheme)
    if scheme not in _SCHEMES:
        raise ValueError(f"invalid address of a gRPC service: {text!r}: {scheme}:// is not gRPC")
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"invalid address of a gRPC service: {text!r}: {error}") from error
    if not host or not port or parts.username is not None or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"invalid address of a gRPC service: {text!r}: it is not HOST:PORT")
    return Address(host=host, port=port, tls=_SCHEMES[scheme])


def missing() -> str:
    """Why the suite cannot run here: the first package that is not installed; empty if all are."""
    for name in _PACKAGES:
        try:
            if find_spec(name) is None:
                return f"the package {name} is not installed"
        except ModuleNotFoundError as error:  # the parent of a dotted name
            return f"the package {error.name} is not installed"
    return ""
