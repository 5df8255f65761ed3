"""Latencies and rates of a streamed completion, with their formulas, and distributions.

The time of an event is that of the read that completed it. A *token chunk* contains tokens (:func:`.chunk.has_tokens`). A
server may put several tokens into one chunk, so the gaps between chunks are not inter-token latencies.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Metrics of one stream; ``None`` if not available.

    Attributes:
        ttft_ms: (first token chunk - request sent). Excludes connecting, includes waiting in the server's queue.
        tpot_ms: (last token chunk - first token chunk) / (output_tokens - 1). ``None`` with n > 1 choices, one token or one
            token chunk.
        inter_chunk_latency_ms: Gap before each token chunk except the first.
        e2e_ms: (last event - request sent).
        output_tokens_per_s: output_tokens / e2e.
        chunks: Number of token chunks.
        output_tokens: ``completion_tokens`` of the last usage that the server sent.
        prompt_tokens: ``prompt_tokens`` of the last usage that the server sent.
    """

    ttft_ms: float | None
    tpot_ms: float | None
    inter_chunk_latency_ms: tuple[float, ...]
    e2e_ms: float | None
    output_tokens_per_s: float | None
    chunks: int
    output_tokens: int | None
    prompt_tokens: int | None

    def properties(self) -> dict[str, object]:
        """As properties of a test case: numbers and strings; the gaps as a distribution."""
        values: dict[str, object] = {
            "ttft_ms": self.ttft_ms,
            "tpot_ms": self.tpot_ms,
            "e2e_ms": self.e2e_ms,
            "output_tokens_per_s": self.output_tokens_per_s,
            "chunks": self.chunks,
            "output_tokens": self.output_tokens,
        }
        if self.inter_chunk_latency_ms:
            values |= Distribution.of(self.inter_chunk_latency_ms).properties("inter_chunk_latency_ms")
        return {
            name: round(value, 3) if isinstance(value, float) else value for name, value in values.items() if value is not None
        }


def measure(
    *,
    sent_ns: int,
    token_chunks_ns: Sequence[int],
    last_event_ns: int | None,
    output_tokens: int | None,
    prompt_tokens: int | None,
    choices: int,
) -> Metrics:
    """Metrics from clocks and token counts; the formulas are those in :class:`Metrics`."""
    first = token_chunks_ns[0] if token_chunks_ns else None
    e2e_ns = last_event_ns - sent_ns if last_event_ns is not None else None
    several = len(token_chunks_ns) > 1 and output_tokens is not None and output_tokens > 1 and choices == 1
    return Metrics(
        ttft_ms=(first - sent_ns) / 1e6 if first is not None else None,
        tpot_ms=(token_chunks_ns[-1] - first) / (output_tokens - 1) / 1e6
        if several and first is not None and output_tokens is not None
        else None,
        inter_chunk_latency_ms=tuple((late - early) / 1e6 for early, late in itertools.pairwise(token_chunks_ns)),
        e2e_ms=e2e_ns / 1e6 if e2e_ns is not None else None,
        output_tokens_per_s=output_tokens / (e2e_ns / 1e9) if output_tokens is not None and e2e_ns else None,
        chunks=len(token_chunks_ns),
        output_tokens=output_tokens,
        prompt_tokens=prompt_tokens,
    )


def _linear(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def _inverted_cdf(ordered: Sequence[float], share: float) -> float:
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


class Method(enum.StrEnum):
    """Method of a percentile; types of Hyndman and Fan (1996), names as in NumPy."""

    LINEAR = "linear"
    """Type 7: linear interpolation at position q(n - 1). NumPy's default."""

    INVERTED_CDF = "inverted_cdf"
    """Type 1, "nearest rank": the smallest value that at least a share q of the sample does not exceed."""


_METHODS: dict[Method, Callable[[Sequence[float], float], float]] = {
    Method.LINEAR: _linear,
    Method.INVERTED_CDF: _inverted_cdf,
}


def percentile(values: Iterable[float], percent: float, *, method: Method = Method.LINEAR) -> float:
    """The ``percent``-th percentile of ``values``.

    Raises:
        ValueError: There are no values, or ``percent`` is not within 0 and 100.
    """
    ordered = sorted(values)
    if not ordered or not 0 <= percent <= 100:
        raise ValueError(f"no percentile {percent} of {len(ordered)} values")
    return _METHODS[method](ordered, percent / 100)


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Summary of a sample.

    Attributes:
        method: Method of the percentiles.
    """

    count: int
    mean: float
    minimum: float
    p50: float
    p90: float
    p99: float
    maximum: float
    method: Method

    @classmethod
    def of(cls, values: Iterable[float], *, method: Method = Method.LINEAR) -> Distribution:
        """Distribution of ``values``.

        Raises:
            ValueError: There are no values.
        """
        ordered = sorted(values)
        p50, p90, p99 = (percentile(ordered, percent, method=method) for percent in (50, 90, 99))
        return cls(
            count=len(ordered),
            mean=math.fsum(ordered) / len(ordered),
            minimum=ordered[0],
            p50=p50,
            p90=p90,
            p99=p99,
            maximum=ordered[-1],
            method=method,
        )

    def properties(self, name: str) -> dict[str, object]:
        """As properties of a test case: ``NAME_p50`` and so on, ``percentiles`` for the method."""
        values = {
            "mean": self.mean,
            "min": self.minimum,
            "p50": self.p50,
            "p90": self.p90,
            "p99": self.p99,
            "max": self.maximum,
        }
        return {f"{name}_{key}": round(value, 3) for key, value in values.items()} | {
            "percentiles": self.method.value,
        }
