"""Expressions of PromQL with two places to fill in: ``<labels>`` (which series) and ``<window>`` (over how long)."""

from __future__ import annotations

import json
from collections.abc import Mapping


def matchers(labels: Mapping[str, str]) -> str:
    """Label matchers, e.g. ``channel="production"``; PromQL's strings have the escapes of JSON's."""
    return ",".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in sorted(labels.items()))


def fill(template: str, labels: Mapping[str, str], window: str) -> str:
    """An expression for the series with ``labels``, over ``window`` (a duration such as ``5m``)."""
    return template.replace("<window>", window).replace("<labels>", matchers(labels))


def duration(seconds: float) -> str:
    """A duration as Prometheus writes it, in the largest unit that is exact: ``90s``, ``5m``, ``6h``, ``3d``."""
    whole = max(1, round(seconds))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole % size == 0:
            return f"{whole // size}{unit}"
    return f"{whole}s"


def share(part: str, whole: str) -> str:
    """Share of a counter's increase in that of another; no result, rather than NaN, when nothing happened."""
    return f"({part} or 0 * {whole}) / ({whole} > 0)"
