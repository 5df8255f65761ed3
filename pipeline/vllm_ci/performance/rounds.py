"""Rounds of a fixed number of requests: every start of a server is asked the same, so that its counters can be compared."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm_ci.domain.report import Verdict
from vllm_ci.performance.figures import Figures, Spread
from vllm_ci.performance.load import Load
from vllm_ci.performance.measuring import Measurement
from vllm_ci.performance.workload import WORDS, Ask, Workload

METRICS = ("ttft_ms", "tpot_ms", "output_tokens_per_s")
"""What is compared: means over the requests of a round."""
TOKENS = ("prompt_tokens", "output_tokens")
"""Counters that have to be equal, because otherwise two servers did not do the same work."""
_SERVER = ("preemptions", "prefix_cache_queries", "prefix_cache_hits")


@dataclass(frozen=True, kw_only=True)
class FixedWorkload(Workload):
    """A workload that ends after a number of requests.

    Attributes:
        count: Number of requests.
    """

    count: int

    def asks(self, *, seed: int, words: Sequence[str] = WORDS, tokens_per_word: float = 1.0) -> Iterator[Ask]:
        """Its requests."""
        return itertools.islice(super().asks(seed=seed, words=words, tokens_per_word=tokens_per_word), self.count)


def fixed(workload: Workload, count: int) -> FixedWorkload:
    """The first ``count`` requests of a workload."""
    return FixedWorkload(**vars(workload), count=count)


@dataclass(frozen=True, kw_only=True)
class Round:
    """What is kept of a round.

    Attributes:
        verdict: Whether its figures can be trusted; see :class:`~vllm_ci.performance.measuring.Measurement`.
        reasons: Why not.
        values: Metrics by name; those that could not be measured are missing.
        counters: Numbers that two equal servers have in common: tokens, chunks, and counters of the server.
        short_answers: Answers with fewer tokens than requested: the length of answers depends on what the model says.
    """

    verdict: Verdict
    reasons: tuple[str, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict)
    counters: Mapping[str, float] = field(default_factory=dict)
    short_answers: int = 0

    @classmethod
    def of(cls, measurement: Measurement, load: Load) -> Round:
        """From a measurement and its requests."""
        return cls(
            verdict=measurement.verdict,
            reasons=measurement.reasons,
            values=_values(measurement.figures),
            counters=_counters(load, measurement.counters),
            short_answers=measurement.figures.short_answers,
        )

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Round:
        """From JSON.

        Raises:
            LookupError, TypeError, ValueError: It is not one of :meth:`document`.
        """
        return cls(
            verdict=Verdict(data["verdict"]),
            reasons=tuple(map(str, data["reasons"])),
            values=_numbers(data["values"]),
            counters=_numbers(data["counters"]),
            short_answers=int(data["short_answers"]),
        )

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "verdict": str(self.verdict),
            "reasons": list(self.reasons),
            "values": dict(self.values),
            "counters": dict(self.counters),
            "short_answers": self.short_answers,
        }


def _numbers(data: Mapping[str, Any]) -> dict[str, float]:
    found = {str(name): float(value) for name, value in data.items()}
    if not all(map(math.isfinite, found.values())):
        raise ValueError("a value is not a finite number")
    return found


def _values(figures: Figures) -> dict[str, float]:
    spreads: dict[str, Spread | None] = {"ttft_ms": figures.ttft_ms, "tpot_ms": figures.tpot_ms}
    found = {name: spread.mean for name, spread in spreads.items() if spread is not None}
    found["output_tokens_per_s"] = figures.output_tokens_per_s
    return {name: value for name, value in found.items() if value > 0}


def _counters(load: Load, grown: Mapping[str, float]) -> dict[str, float]:
    samples = list(load.samples)
    prompts = [sample.prompt_tokens for sample in samples]
    found: dict[str, float] = {
        "requests": len(samples),
        "output_tokens": sum(sample.output_tokens for sample in samples),
        "chunks": sum(sample.chunks for sample in samples),
        **{name: grown[name] for name in _SERVER if name in grown},
    }
    if prompts and None not in prompts:
        found["prompt_tokens"] = sum(prompt or 0 for prompt in prompts)
    return found
