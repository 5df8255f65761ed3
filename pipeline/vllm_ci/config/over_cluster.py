"""What does not go together with ``deploy.target: kubernetes``: what only the gateway and the agent of target local do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vllm_ci.config.refused import Refused, together
from vllm_ci.domain.errors import UsageError

if TYPE_CHECKING:
    from vllm_ci.config.deploy import DeploySettings

_GATEWAY = ("api_keys", "requests_per_minute", "tokens_per_minute", "log_requests")
"""What a person could take for being enforced."""


def refused(settings: DeploySettings) -> Iterator[Refused]:
    """All settings of a channel that would have no effect in a cluster; none where its target is another one.

    Args:
        settings: Of the channel.
    """
    if settings.target != "kubernetes":
        return
    if settings.scale is not None:
        why = "`vllm-ci agent` keeps the number of servers at target local only"
        remedy = "remove it, and set deploy.replicas"
        if settings.kubernetes.kserve is None:
            remedy += " or deploy.kubernetes.autoscaling"
        yield Refused(key=("deploy", "scale"), why=why, remedy=remedy)
    for name in _GATEWAY:
        if getattr(settings.gateway, name):
            why = "only the gateway of target local does that, and requests reach a cluster through its own Gateway"
            remedy = "remove it; server.api_key_env sets one key for all clients, which vLLM itself asks for"
            yield Refused(key=("deploy", "gateway", name), why=why, remedy=remedy)


def require(settings: DeploySettings) -> None:
    """Check that a channel can be deployed to its target, which the command line may have chosen.

    Raises:
        UsageError: It cannot: some setting would have no effect.
    """
    if found := list(refused(settings)):
        names, why, remedy = together(found)
        raise UsageError(f"{names} cannot be used with target kubernetes", why=why, remedy=remedy)
