"""The course of a deployment: what was measured of each revision, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vllm_ci.deploy.target import Observation

KEPT = 5000


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measurement.

    Attributes:
        at: Its end, in seconds since 1970.
        seconds: Its length.
        step: Name of the step.
        weights: Share of the requests in percent, by revision.
        requests: Requests that ended, by revision; copies count.
        errors: Of them, those that failed.
        ttft_ms: 95th percentile of the time to the first byte; a revision without requests is absent.
    """

    at: float
    seconds: float
    step: str
    weights: Mapping[str, int]
    requests: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    ttft_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Course:
    """All measurements of a deployment; the newest are kept.

    Attributes:
        deployment: Its id.
        points: In order.
    """

    deployment: str
    points: Sequence[Point] = ()

    def having(self, seen: Observation, *, at: float, step: str, weights: Mapping[str, int]) -> Course:
        """The same with one more."""
        point = Point(
            at=at,
            seconds=seen.seconds,
            step=step,
            weights={name: share for name, share in weights.items() if share},
            requests={name: each.requests for name, each in seen.samples.items()},
            errors={name: each.errors for name, each in seen.samples.items()},
            ttft_ms={name: each.ttft_ms["0.95"] for name, each in seen.samples.items() if "0.95" in each.ttft_ms},
        )
        return Course(deployment=self.deployment, points=(*self.points, point)[-KEPT:])
