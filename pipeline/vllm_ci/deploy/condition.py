"""Conditions on metrics, as they are written in the configuration: ``errors <= 1%``, ``ttft_ms.p95 <= 1.2 * baseline``. Pure.

Metrics: ``errors`` (share of the requests), ``latency_ms.p50|p95|p99``, ``ttft_ms.p50|p95|p99`` (to the first byte), and
whatever else a target measures, by its name (``vllm:num_requests_waiting``). A condition is a metric, a comparison and a limit:
a number, a percentage, or ``baseline`` (the same metric of the revision that serves already) with a factor or a summand.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vllm_ci.deploy.target import Sample

_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_NUMBER = r"\d+(?:\.\d+)?"
_FORM = re.compile(
    rf"(?P<metric>[A-Za-z_][\w:.]*)\s*(?P<comparison><=|>=|<|>)\s*"
    rf"(?:(?P<number>{_NUMBER})\s*(?P<percent>%)?"
    rf"|(?:(?P<factor>{_NUMBER})\s*\*\s*)?baseline(?:\s*\+\s*(?P<more>{_NUMBER})\s*(?P<more_percent>%)?)?)"
)
_QUANTILES = {"p50": "0.5", "p95": "0.95", "p99": "0.99"}


class NoData(ValueError):
    """A metric is not known; the message says which and why."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What must hold of a metric.

    Attributes:
        text: As it was written.
        metric: Its name.
        comparison: ``<=``, ``>=``, ``<`` or ``>``.
        factor: Of the baseline in the limit; 0: the limit is absolute.
        summand: Of the limit.
    """

    text: str
    metric: str
    comparison: str
    factor: float
    summand: float

    def holds(self, sample: Sample, baseline: Sample | None) -> tuple[bool, str]:
        """Whether it holds, and what was found (``errors 0.2 %, limit 1 %``).

        Raises:
            NoData: The metric or its baseline is not known.
        """
        found = value(self.metric, sample)
        limit = self.summand
        if self.factor:
            if baseline is None:
                raise NoData(f"{self.metric}: no baseline, because no other revision serves")
            try:
                limit += self.factor * value(self.metric, baseline)
            except NoData as error:
                raise NoData(f"{error} (of the baseline)") from error
        shown = f"{self.metric} {_shown(self.metric, found)}, limit {self.comparison} {_shown(self.metric, limit)}"
        return _COMPARISONS[self.comparison](found, limit), shown


def parse(text: str) -> Condition:
    """A condition from its text.

    Raises:
        ValueError: It is not one; the message says what is expected.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a condition; write e.g. `errors <= 1%` or `ttft_ms.p95 <= 1.2 * baseline`")
    metric = match["metric"]
    name, _, part = metric.partition(".")
    if name in ("latency_ms", "ttft_ms") and part not in _QUANTILES:
        known = [f"{name}.{each}" for each in _QUANTILES]
        raise ValueError(f"{metric}: name a quantile, one of {', '.join(known)}")
    number, percent = (match["number"], match["percent"]) if match["number"] else (match["more"] or "0", match["more_percent"])
    return Condition(
        text=" ".join(text.split()),
        metric=metric,
        comparison=match["comparison"],
        factor=0.0 if match["number"] else float(match["factor"] or 1),
        summand=float(number) / (100 if percent else 1),
    )


def value(metric: str, sample: Sample) -> float:
    """A metric of a sample.

    Raises:
        NoData: It is not there, or not a finite number.
    """
    name, _, part = metric.partition(".")
    found: float | None
    if metric == "errors":
        if not sample.requests:
            raise NoData("errors: no requests")
        found = sample.errors / sample.requests
    elif part in _QUANTILES and name in ("latency_ms", "ttft_ms"):
        quantiles = sample.latencies_ms if name == "latency_ms" else sample.ttft_ms
        found = quantiles.get(_QUANTILES[part])
    else:
        found = sample.values.get(metric)
    if found is None:
        raise NoData(f"{metric}: not measured")
    if not math.isfinite(found):
        raise NoData(f"{metric}: {found} is not a number that says anything")
    return found


def _shown(metric: str, number: float) -> str:
    return f"{100 * number:.3g} %" if metric == "errors" else f"{number:.4g}"
