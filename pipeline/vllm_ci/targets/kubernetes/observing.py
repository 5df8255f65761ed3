"""What a revision did between two looks at its servers' metrics: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vllm_ci.deploy.target import Sample
from vllm_ci.suites.metrics import Samples

_QUANTILES = (0.5, 0.95, 0.99)
_TTFT, _LATENCY = "vllm:time_to_first_token_seconds", "vllm:e2e_request_latency_seconds"
_LEVELS = ("vllm:num_requests_waiting", "vllm:num_requests_running")


def sample(before: Mapping[str, Samples], after: Mapping[str, Samples]) -> Sample:
    """Requests, errors and latencies of the servers of one revision.

    Args:
        before: First look, by server.
        after: Second look; servers that are new count from nothing, those that are gone not at all.
    """
    pairs = [(before.get(name), samples) for name, samples in after.items()]
    return Sample(
        requests=round(sum(_grown(old, new, "http_requests_total") for old, new in pairs)),
        errors=round(sum(_grown(old, new, "http_requests_total", status="5xx") for old, new in pairs)),
        latencies_ms=_quantiles(pairs, _LATENCY),
        ttft_ms=_quantiles(pairs, _TTFT),
        values={name: sum(new.total(name) for _, new in pairs) for name in _LEVELS if any(name in new for _, new in pairs)},
    )


def open_requests(samples: Iterable[Samples]) -> int:
    """Requests that run or wait now."""
    return round(sum(each.total(name) for each in samples for name in _LEVELS))


def _grown(old: Samples | None, new: Samples, name: str, **labels: str) -> float:
    """Growth of a counter; a server that was restarted begins at nothing."""
    now, then = new.total(name, **labels), old.total(name, **labels) if old else 0.0
    return now - then if now >= then else now


def _quantiles(pairs: list[tuple[Samples | None, Samples]], metric: str) -> dict[str, float]:
    """Milliseconds by quantile, interpolated in the buckets as Prometheus does it (``histogram_quantile``)."""
    bounds = sorted(
        {
            float(value)
            for _, new in pairs
            for name, labels in new.values
            if name == f"{metric}_bucket"
            for key, value in labels
            if key == "le"
        }
    )
    counts = [(bound, _below(pairs, metric, bound)) for bound in bounds]
    total = counts[-1][1] if counts else 0.0
    return {f"{each:g}": _quantile(counts, each * total) * 1000 for each in _QUANTILES} if total > 0 else {}


def _below(pairs: list[tuple[Samples | None, Samples]], metric: str, bound: float) -> float:
    found = 0.0
    for old, new in pairs:
        for (name, labels), now in new.values.items():
            if name == f"{metric}_bucket" and float(dict(labels)["le"]) == bound:
                then = old.values.get((name, labels), 0.0) if old else 0.0
                found += now - then if now >= then else now
    return found


def _quantile(counts: list[tuple[float, float]], rank: float) -> float:
    lower, below = 0.0, 0.0
    for bound, count in counts:
        if count >= rank:
            if bound == float("inf"):
                return lower
            share = (rank - below) / (count - below) if count > below else 1.0
            return lower + (bound - lower) * share
        lower, below = bound, count
    return lower
