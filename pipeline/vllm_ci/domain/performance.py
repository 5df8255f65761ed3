"""Configuration of the comparison with a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SELF = "self"
"""As the baseline: the image of the commit itself, so that the comparison shows its own noise."""
STEP = 3
"""Pairs between two looks at the data."""


@dataclass(frozen=True, kw_only=True)
class PerformanceSpec:
    """How a commit's image is compared with a baseline.

    Attributes:
        baseline: Name of a channel, a commit, a digest, a reference of an image, or :data:`SELF`.
        workload: Name of the workload.
        requests: Requests of a round.
        rounds: Rounds of one start of a server; each asks something else, and all starts are asked the same.
        concurrency: Requests of a closed loop that run at the same time.
        rate: Requests per second of an open loop; 0 for a closed loop.
        warm_up: Requests before the first round, which are not counted.
        least_pairs: Pairs of starts before the first look at the data.
        most_pairs: Pairs of starts before the last look.
        margins: Tolerated slowdown by metric, as a share.
        first: Pass without a comparison where the channel has no release yet.
        timeout_s: Timeout of the measurement of one start.
    """

    baseline: str = "production"
    workload: str = "chat"
    requests: int = 32
    rounds: int = 3
    concurrency: int = 8
    rate: float = 0.0
    warm_up: int = 8
    least_pairs: int = 6
    most_pairs: int = 12
    margins: Mapping[str, float] = field(
        default_factory=lambda: {"ttft_ms": 0.05, "tpot_ms": 0.05, "output_tokens_per_s": 0.05}
    )
    first: bool = False
    timeout_s: float = 1800.0

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of pairs after which the data is judged."""
        return (*range(self.least_pairs, self.most_pairs, STEP), self.most_pairs)
