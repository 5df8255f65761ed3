"""Section ``deploy.gateway:`` of ``vllm-ci.yaml``: the gateway of one machine."""

from __future__ import annotations

from vllm_ci.config.section import Section


class GatewayConfig(Section):
    """Settings of the gateway of target `local`."""
