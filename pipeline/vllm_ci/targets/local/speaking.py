"""What servers of this machine speak: whether they answer, and how they are reached."""

from __future__ import annotations

import os
from collections.abc import Mapping

import anyio
import httpx

from vllm_ci.deploy.target import Serving
from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.gateway import Wire
from vllm_ci.programs import ready
from vllm_ci.suites.grpc.address import EXTRA, missing

_ANSWER_S = 10.0

UNHEALTHY: Mapping[Wire, str] = {
    "http": "GET /health is not answered with 200",
    "grpc": "grpc.health.v1.Health does not say SERVING",
}
"""What is wrong with a server that the gateway sends no requests to."""


def require(protocol: Wire) -> None:
    """Check that servers of a protocol can be asked.

    Raises:
        UsageError: The client is not installed.
    """
    if protocol == "grpc" and (reason := missing()):
        raise UsageError("gRPC cannot be deployed from here", why=reason, remedy=f"pip install '{EXTRA}'")


def address(port: int, protocol: Wire) -> str:
    """Where a server is, with the scheme by which clients are told what it speaks."""
    return f"{protocol}://127.0.0.1:{port}"


def why_not_ready(port: int, serving: Serving, *, timeout_s: float) -> str:
    """Empty when a server has completed a request, otherwise why not."""
    if serving.protocol == "grpc":
        from vllm_ci.suites.grpc.ready import why_not  # loads gRPC

        return why_not(f"127.0.0.1:{port}", timeout_s=timeout_s)
    key = next((os.environ.get(each.rpartition("=")[2], "") for each in serving.secrets if _is_key(each)), "")
    return ready.why_not(f"http://127.0.0.1:{port}", serving.model, key, timeout_s=timeout_s)


async def answers(port: int, protocol: Wire) -> bool:
    """Whether a server answers a health check within 10 s."""
    if protocol == "grpc":
        from vllm_ci.suites.grpc.ready import serves  # loads gRPC

        return await anyio.to_thread.run_sync(lambda: serves(f"127.0.0.1:{port}", timeout_s=_ANSWER_S))
    async with httpx.AsyncClient(timeout=_ANSWER_S, trust_env=False) as client:
        try:
            return (await client.get(f"http://127.0.0.1:{port}/health")).status_code == 200
        except httpx.HTTPError:
            return False


def _is_key(secret: str) -> bool:
    return secret.partition("=")[0] == "VLLM_API_KEY"
