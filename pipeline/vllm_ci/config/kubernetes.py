"""Section ``deploy.kubernetes:`` of ``vllm-ci.yaml``: what target ``kubernetes`` needs to know."""

from __future__ import annotations

from vllm_ci.config.section import Section


class KubernetesConfig(Section):
    """Settings of target `kubernetes`."""
