"""What does not go together with ``deploy.protocol: grpc``: everything that needs vLLM's HTTP server, refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vllm_ci.config.refused import Refused
from vllm_ci.deploy import condition
from vllm_ci.domain.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from vllm_ci.config.deploy import DeploySettings
    from vllm_ci.config.load import Loaded
    from vllm_ci.config.server import ServerConfig

# Targets that serve gRPC; `memory` serves nobody.
TARGETS = ("local", "memory")


def refused(settings: DeploySettings, server: ServerConfig) -> Iterator[Refused]:
    """All settings that do not go together with the protocol of a channel's deployment.

    Args:
        settings: Of the channel.
        server: How vLLM is served.
    """
    if settings.protocol != "grpc":
        return
    if settings.target not in TARGETS:
        yield Refused(key=("deploy", "target"), why=_target(settings.target), remedy="deploy to target local, or serve HTTP")
    try:
        settings.gateway.domain(settings.protocol)
    except ValueError as error:
        yield Refused(key=("deploy", "gateway"), why=str(error), remedy="remove that setting, or serve HTTP")
    if settings.scale is not None:
        why = "servers are counted by the requests in vLLM's metrics, which a server of gRPC does not have"
        yield Refused(key=("deploy", "scale"), why=why, remedy="remove it and set `replicas`, or serve HTTP")
    if settings.shadow.compare:
        why = "answers of HTTP can be compared, and this channel serves gRPC"
        yield Refused(key=("deploy", "shadow", "compare"), why=why, remedy="remove it; copies are judged by errors and latency")
    for index, text in enumerate(settings.analysis.conditions):
        metric = condition.parse(text).metric
        if metric.startswith(("shadow.", "vllm:")):
            why = f"there is no {metric} of servers of gRPC, so the condition could never hold"
            yield Refused(key=("deploy", "analysis", "conditions", index), why=why, remedy="name errors, latency_ms or ttft_ms")
    if server.api_key_env or "VLLM_API_KEY" in server.env:
        key = ("server", "api_key_env") if server.api_key_env else ("server", "env", "VLLM_API_KEY")
        why = "vLLM's gRPC service checks no key, so it would be open to everybody"
        remedy = "remove it, and have the gateway ask for keys: deploy.gateway.api_keys; `generate_api_key: true` is for tests"
        yield Refused(key=key, why=why, remedy=remedy)


def require_target(settings: DeploySettings) -> None:
    """Check that the target of a deployment serves its protocol.

    Raises:
        UsageError: It does not.
    """
    if settings.protocol == "grpc" and settings.target not in TARGETS:
        raise UsageError(
            f"target {settings.target} does not serve gRPC",
            why=_target(settings.target),
            remedy="deploy to target local, or remove deploy.protocol",
        )


def require_metrics(loaded: Loaded, channel: str) -> None:
    """Check that a channel has the metrics that rules and comparisons are made of.

    Raises:
        ConfigError: It serves gRPC.
    """
    if loaded.config.deploy.of(channel).protocol == "grpc":
        raise ConfigError(
            f"{channel} serves gRPC, which cannot be watched by Prometheus",
            why="its servers have no /metrics, and signals count statuses of HTTP, which are 200 for errors of gRPC, too",
            remedy="name other channels; deployments of this one are judged by its access log, see docs/deploy.md",
        )


def _target(name: str) -> str:
    return f"`deploy.protocol: grpc` is not implemented for target `{name}`, whose probes and routes are those of HTTP"
