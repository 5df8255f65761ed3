"""Facts about this machine, for ``doctor``."""

from __future__ import annotations

from vllm_ci.engines.machine import facts, gpus

__all__ = ["facts", "gpus"]
