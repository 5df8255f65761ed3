"""The two objectives of a channel: requests that did not fail, and first tokens that came in time."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_ci.monitoring.promql import share
from vllm_ci.monitoring.signals import BY_NAME
from vllm_ci.monitoring.slo import Objective

TTFT_BUCKETS_S = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
    160.0,
)
"""Bounds of vLLM's histogram of the time to first token: only at these is the share of slow requests known."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What a channel promises.

    Attributes:
        availability: Share of requests without a server error.
        ttft_s: A first token in this time is in time; one of :data:`TTFT_BUCKETS_S`.
        ttft_share: Share of first tokens in time.
        days: Length of the period.
    """

    availability: float = 0.999
    ttft_s: float = 2.5
    ttft_share: float = 0.95
    days: float = 30.0

    def objectives(self) -> tuple[Objective, ...]:
        """With their expressions."""
        count = "sum(increase(vllm:time_to_first_token_seconds_count{<labels>}[<window>]))"
        # Prometheus 3 writes the bound 5 as "5.0", whatever the server wrote.
        bounds = "|".join(sorted({f"{self.ttft_s:g}", str(float(self.ttft_s))})).replace(".", "\\\\.")
        fast = f'sum(increase(vllm:time_to_first_token_seconds_bucket{{<labels>,le=~"{bounds}"}}[<window>]))'
        return (
            Objective(
                name="availability",
                title="requests without a server error",
                target=self.availability,
                days=self.days,
                bad=share(BY_NAME["errors"].part, BY_NAME["errors"].expr),
            ),
            Objective(
                name="ttft",
                title=f"first tokens within {self.ttft_s:g} s",
                target=self.ttft_share,
                days=self.days,
                bad=f"clamp_min(1 - {share(fast, count)}, 0)",
            ),
        )
