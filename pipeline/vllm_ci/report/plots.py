"""Plots of a report as SVG that a page can hold: drawn by pygal, without its script and style, coloured by the page."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

from markupsafe import Markup

from vllm_ci.domain.plain_json import is_number
from vllm_ci.domain.report import Report, StageResult

LATENCIES = {"ttft_ms": "Time to first token", "tpot_ms": "Time per output token", "e2e_ms": "Time of a whole answer"}
_PERCENTILES = ("min", "p50", "p90", "p99", "max")
_CHUNKS = "chunks_at_ms"
_NUMBER = re.compile(r"-?\d+\.\d+")
_BINS = 14
_FEWEST = 4
_NARROWEST = 1e-5
"""Smallest width of a bin, as the logarithm of a ratio."""
_MOST_STREAMS = 4
_MOST_POINTS = 100
_KEPT = frozenset(("class", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "rx", "ry", "d", "width", "height", "transform"))


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot and what it says in words.

    Attributes:
        title: What is measured.
        caption: The figures in one sentence.
        svg: The picture, hidden from screen readers: the caption says the same.
    """

    title: str
    caption: str
    svg: Markup


def distributions(stage: StageResult) -> list[Plot]:
    """How latencies of the stage's streams are distributed: one plot for each latency that at least four cases recorded."""
    plots = []
    for name, title in LATENCIES.items():
        values = [value for case in stage.cases for value in _numbers(case.properties.get(name)) if value > 0]
        if len(values) >= _FEWEST:
            middle = sorted(values)[len(values) // 2]
            caption = f"{len(values)} streams, from {_ms(min(values))} to {_ms(max(values))}, half of them below {_ms(middle)}"
            plots.append(Plot(title=title, caption=caption, svg=_histogram(values)))
    return plots


def percentiles(stage: StageResult) -> list[tuple[str, list[str]]]:
    """Rows (latency, figures) over all streams of the stage, also of the cases with several; empty if it measured none."""
    rows = []
    for name, title in LATENCIES.items():
        values = [stage.metrics.get(f"{name}_{which}") for which in _PERCENTILES]
        numbers = [value for value in values if is_number(value)]
        if len(numbers) == len(_PERCENTILES):
            rows.append((title, [_ms(value) for value in numbers]))
    return rows


def streams(report: Report) -> Iterator[Plot]:
    """When the chunks of single streams came, of the first cases that recorded it (``chunks_at_ms``)."""
    found = (
        (case, numbers)
        for stage in report.stages
        for case in stage.cases
        if len(numbers := _numbers(case.properties.get(_CHUNKS))) >= _FEWEST
    )
    for (case, numbers), _ in zip(found, range(_MOST_STREAMS), strict=False):
        whole = next(iter(_numbers(case.properties.get("whole_ms"))), None)
        beside = f"; the same answer in one piece takes {_ms(whole)}" if whole is not None else ""
        caption = f"{len(numbers)} chunks, the first after {_ms(numbers[0])}, the last after {_ms(numbers[-1])}{beside}"
        yield Plot(title=case.name, caption=caption, svg=_arrivals(numbers))


def _numbers(value: object) -> list[float]:
    values = value if isinstance(value, list | tuple) else (value,)
    return [float(each) for each in values if is_number(each)]


def _ms(value: float) -> str:
    if value < 999.5:  # more is 1000 in three digits, which would be written as 1e+03
        return f"{value:.3g} ms"
    return f"{value / 1000:.3g} s" if value < 999_500 else f"{value / 1000:,.0f} s"


def _histogram(values: Sequence[float]) -> Markup:
    """Number of values in bins of equal ratio: latencies differ by factors, not by milliseconds."""
    import pygal

    low, high = math.log(min(values)), math.log(max(values))
    count = max(min(_BINS, len(values) // 2), _FEWEST)
    if high - low < count * _NARROWEST:  # all the same: one bin in the middle, whose label is the value
        low = (low + high) / 2 - count * _NARROWEST / 2
        step = _NARROWEST
    else:
        step = (high - low) / count
    bins = [0] * count
    for value in values:
        bins[min(max(int((math.log(value) - low) / step), 0), count - 1)] += 1
    chart = pygal.Bar(**options(), x_labels_major_every=max(count // 4, 1), show_minor_x_labels=False)
    chart.x_labels = [_ms(math.exp(low + (number + 0.5) * step)) for number in range(count)]
    chart.add("streams", bins)
    return svg(chart)


def _arrivals(numbers: Sequence[float]) -> Markup:
    import pygal

    every, line = math.ceil(len(numbers) / _MOST_POINTS), len(numbers) > _MOST_POINTS
    chart = pygal.XY(**options(), dots_size=1.2, stroke=line, show_dots=not line, x_value_formatter=_ms)
    points = [(at, number) for number, at in enumerate(numbers, 1)]
    chart.add("chunks", [*points[:-1:every], points[-1]])  # the first and the last one always: they are in the caption
    return svg(chart)


def options() -> dict[str, Any]:
    """Settings that all plots of pages have: no script, no style, no address."""
    without = {"js": (), "css": (), "show_legend": False, "no_prefix": True}
    return {**without, "width": 360, "height": 190, "margin": 6, "max_scale": 6, "spacing": 4, "truncate_label": -1}


def svg(chart: Any) -> Markup:
    """The drawing of a chart only: its shapes, their places and classes, and the labels of the axes."""
    root = chart.render_tree()
    _strip(root)
    shown = {"viewBox": root.get("viewBox", "0 0 360 190"), "class": "plot-svg", "aria-hidden": "true", "focusable": "false"}
    root.attrib.clear()
    root.attrib.update(shown)
    return Markup(ET.tostring(root, encoding="unicode", short_empty_elements=True))  # noqa: S704 - elements and attributes are listed


def _strip(element: Any) -> None:
    for child in list(element):
        if not isinstance(child.tag, str) or _name(child.tag) not in {"g", "rect", "path", "text", "circle", "line"}:
            element.remove(child)
            continue
        child.tag = _name(child.tag)
        for name in [name for name in child.attrib if name not in _KEPT]:
            del child.attrib[name]
        _shorten(child.attrib)
        _strip(child)
    element.tag = _name(element.tag)


def _shorten(attributes: dict[str, str]) -> None:
    """A tenth of a unit of a drawing that is 360 wide is less than a pixel."""
    for name, value in attributes.items():
        attributes[name] = _NUMBER.sub(lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), value)
    if not attributes.get("class", "-"):
        del attributes["class"]


def _name(tag: str) -> str:
    return tag.rpartition("}")[2]
