"""The device that an image's vLLM runs on, according to its spec."""

from __future__ import annotations

import re

from vllm_ci.domain.image_spec import ImageSpec

_CPU = re.compile(r"vllm[-_.]cpu\b|vllm\s*(==|@).*\bcpu\b", re.IGNORECASE)


def of(spec: ImageSpec) -> str:
    """``cpu`` where the spec asks for vLLM's build for CPUs or calls its variant that, else empty."""
    named = spec.variant == "cpu" or spec.variant.startswith("cpu-")
    return "cpu" if named or any(_CPU.match(requirement) for requirement in spec.requirements) else ""
