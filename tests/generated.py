"""How many generated inputs a test examines: few in the usual run, which takes the same ones each time, many in a long one."""

from __future__ import annotations

import os

VARIABLES = ("VLLM_CI_FUZZ", "FUZZ_EXAMPLES")
"""Each of them asks for the long run, which takes new inputs each time."""
_SHARE = 8
_LEAST = 60


def long_run() -> bool:
    """Whether the long run is asked for."""
    return any(name in os.environ for name in VARIABLES)


def examples(many: int) -> int:
    """Number of examples.

    Args:
        many: Number in the long run.
    """
    return many if long_run() else max(many // _SHARE, _LEAST)
