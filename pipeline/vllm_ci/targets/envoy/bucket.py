"""The token bucket of a limit for each minute."""

from __future__ import annotations

from vllm_ci.targets.envoy.files import Json


def per_minute(limit: int) -> Json:
    """A bucket (``TokenBucket``) that holds ``limit`` and gets as many in a minute: a second's worth at a time, or one."""
    tokens = max(1, limit // 60)
    return {"max_tokens": limit, "tokens_per_fill": tokens, "fill_interval": f"{60 * tokens / limit:.6f}s"}
