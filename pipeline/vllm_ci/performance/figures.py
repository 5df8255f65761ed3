"""The figures of a run, each with its formula, and percentiles only where there are enough requests. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vllm_ci.loadgen.metrics import percentile
from vllm_ci.performance.sample import Sample, Samples

_ERROR = 0.01
PERCENTILES = (50.0, 90.0, 95.0, 99.0)
LATE_MS = 10.0
"""A client whose requests are later than this in the 99th percentile was the bottleneck."""


def least_requests(percent: float) -> int:
    """Requests from which a percentile is shown: 11 for the median, 64 for p90, 662 for p99.

    From this number on it is 99 % certain that at least two of them are above the true percentile (binomial; the rule of MLPerf
    Inference, "early stopping").

    Raises:
        ValueError: ``percent`` is not between 0 and 100.
    """
    if not 0 < percent < 100:
        raise ValueError(f"no percentile {percent}")
    share = percent / 100
    count = 2
    while share**count + count * (1 - share) * share ** (count - 1) > _ERROR:
        count += 1
    return count


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A service level objective of one request: it is good if every given limit holds.

    Attributes:
        ttft_ms: Largest time to first token.
        tpot_ms: Largest time per further token.
        e2e_ms: Largest time of the whole answer.
    """

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None

    def holds(self, sample: Sample) -> bool:
        """Whether a request succeeded within the limits."""
        pairs = ((self.ttft_ms, sample.ttft_ms), (self.tpot_ms, sample.tpot_ms), (self.e2e_ms, sample.e2e_ms))
        return not sample.problem and all(limit is None or value is None or value <= limit for limit, value in pairs)

    def __bool__(self) -> bool:
        return any(limit is not None for limit in (self.ttft_ms, self.tpot_ms, self.e2e_ms))


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A distribution.

    Attributes:
        count: Number of values.
        mean: Arithmetic mean.
        percentiles: Values by percent, without those that the number of values is too small for.
        missing: Least number of values by percent, for those that are missing.
    """

    count: int
    mean: float
    percentiles: Mapping[float, float] = field(default_factory=dict)
    missing: Mapping[float, int] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """The distribution of values; ``None`` if there are none."""
        ordered = sorted(values)
        if not ordered:
            return None
        enough = {percent: least_requests(percent) for percent in PERCENTILES}
        return cls(
            count=len(ordered),
            mean=math.fsum(ordered) / len(ordered),
            percentiles={percent: percentile(ordered, percent) for percent, least in enough.items() if len(ordered) >= least},
            missing={percent: least for percent, least in enough.items() if len(ordered) < least},
        )


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures of one run. Rates count what ended after the warm-up, over the time between warm-up and the last end.

    Attributes:
        requests: Requests that succeeded.
        failed: Requests that failed, by problem.
        duration_s: From the end of the warm-up to the last end of a request.
        requests_per_s: requests / duration.
        output_tokens_per_s: Tokens of all answers / duration.
        total_tokens_per_s: Tokens of all prompts and answers / duration; ``None`` without usage.
        goodput_per_s: Requests that meet the objective / duration; ``None`` without an objective.
        ttft_ms: (first token - due).
        tpot_ms: (last token - first token) / (output_tokens - 1).
        e2e_ms: (last event - due).
        inter_chunk_latency_ms: Mean, p50, p90, p99 and largest gap between token chunks.
        lag_ms: (begun - due): how late the client was.
        short_answers: Answers with fewer tokens than requested.
        undone: Whole streams that ended without ``[DONE]``; they count as requests that succeeded. Includes the warm-up.
    """

    requests: int
    failed: Mapping[str, int]
    duration_s: float
    requests_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float | None
    goodput_per_s: float | None
    ttft_ms: Spread | None
    tpot_ms: Spread | None
    e2e_ms: Spread | None
    inter_chunk_latency_ms: Mapping[str, float]
    lag_ms: Spread | None
    short_answers: int
    undone: int = 0

    @property
    def client_too_slow(self) -> str:
        """Why the run says more about the client than about the server; empty if it does not."""
        return too_late(self.lag_ms)


def too_late(lag: Spread | None) -> str:
    """Why a client with this lag in ms was the bottleneck; empty if it was not."""
    late = (lag.percentiles.get(99.0) or lag.mean) if lag else 0.0
    return f"the client sent requests {late:.0f} ms late (p99; up to {LATE_MS:.0f} ms are accepted)" if late > LATE_MS else ""


def figures(samples: Samples, *, warm_up_s: float = 0.0, objective: Objective | None = None) -> Figures:
    """Figures of the requests that were due after the warm-up.

    Args:
        samples: Requests of the run.
        warm_up_s: Requests due earlier are not counted.
        objective: What a good request is.
    """
    counted = [sample for sample in samples if sample.due_s >= warm_up_s]
    good = [sample for sample in counted if not sample.problem]
    duration_s = max((sample.end_s for sample in counted), default=warm_up_s) - warm_up_s
    output = sum(sample.output_tokens for sample in good)
    prompts = [sample.prompt_tokens for sample in good]
    known = bool(prompts) and all(prompt is not None for prompt in prompts)

    def rate(count: float) -> float:
        return count / duration_s if duration_s > 0 else 0.0

    return Figures(
        requests=len(good),
        failed=dict(samples.problems),
        duration_s=duration_s,
        requests_per_s=rate(len(good)),
        output_tokens_per_s=rate(output),
        total_tokens_per_s=rate(output + sum(prompt or 0 for prompt in prompts)) if known else None,
        goodput_per_s=rate(sum(map(objective.holds, good))) if objective else None,
        ttft_ms=Spread.of(value for sample in good if (value := sample.ttft_ms) is not None),
        tpot_ms=Spread.of(value for sample in good if (value := sample.tpot_ms) is not None),
        e2e_ms=Spread.of(sample.e2e_ms for sample in good),
        inter_chunk_latency_ms=_gaps(samples),
        lag_ms=Spread.of(sample.lag_ms for sample in counted),
        short_answers=sum(sample.output_tokens < sample.asked_tokens for sample in good),
        undone=samples.undone,
    )


def _gaps(samples: Samples) -> dict[str, float]:
    gaps = samples.gaps_ms
    if not gaps.count:
        return {}
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    return {"mean": gaps.mean, **{name: gaps.quantile(share) for name, share in shares.items()}, "max": gaps.largest}
