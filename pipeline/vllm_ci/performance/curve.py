"""A line chart as SVG: values over a rate, both on logarithmic axes. No script, no font and no file from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 170, 40, 56
_COLOURS = ("#0b6e99", "#c4541a", "#5b7f24", "#7a3e9d")
_TICKS = (1, 2, 5)
_FINE = (1, 1.5, 2, 3, 4, 5, 7)
_STYLE = f'width="{_WIDTH}" height="{_HEIGHT}" font-family="system-ui, sans-serif" font-size="12" fill="#222"'


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the chart.

    Attributes:
        name: In the legend.
        points: x and y, both positive.
        limit: A horizontal line at this y, such as an objective; ``None`` for none.
    """

    name: str
    points: Sequence[tuple[float, float]]
    limit: float | None = None


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """A logarithmic axis from ``low`` to ``high`` over pixels ``begin`` to ``end``."""

    low: float
    high: float
    begin: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], begin: float, end: float) -> _Axis:
        low, high = min(values, default=1.0), max(values, default=10.0)
        pad = max(math.log(high / low) * 0.06, 0.05)
        return cls(low=low * math.exp(-pad), high=high * math.exp(pad), begin=begin, end=end)

    def at(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return round(self.begin + share * (self.end - self.begin), 1)

    def ticks(self) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        inside, fine = (
            [digit * 10.0**power for power in powers for digit in digits if self.low <= digit * 10.0**power <= self.high]
            for digits in (_TICKS, _FINE)
        )
        if len(inside) < 4:
            return fine
        coarse = [tick for tick in inside if math.isclose(math.log10(tick) % 1, 0, abs_tol=1e-9)]
        return coarse if len(inside) > 12 and len(coarse) > 2 else inside


def chart(
    title: str, lines: Sequence[Line], *, x_label: str, y_label: str, band: tuple[float | None, float | None] = (None, None)
) -> str:
    """The chart as one ``<svg>`` element.

    Args:
        title: Its title, also for screen readers.
        lines: What it shows; values that are not positive are left out.
        x_label: Name and unit of the x axis.
        y_label: Name and unit of the y axis.
        band: An interval of x to shade; its ends may be unknown.
    """
    lines = [Line(name=line.name, points=sorted(p for p in line.points if min(p) > 0), limit=line.limit) for line in lines]
    limits = [line.limit for line in lines if line.limit]
    x = _Axis.over([point[0] for line in lines for point in line.points], _LEFT, _WIDTH - _RIGHT)
    y = _Axis.over([point[1] for line in lines for point in line.points] + limits, _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {_WIDTH} {_HEIGHT}" {_STYLE}>',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{_LEFT}" y="22" font-size="14" font-weight="600">{escape(title)}</text>',
        *_band(x, band),
        *_grid(x, y, x_label, y_label),
    ]
    for number, line in enumerate(lines):
        parts += _drawn(line, _COLOURS[number % len(_COLOURS)], number, x, y)
    return "\n".join([*parts, "</svg>"])


def _band(x: _Axis, band: tuple[float | None, float | None]) -> list[str]:
    low, high = band
    if low is None or high is None or not x.low <= low <= high <= x.high:
        return []
    width = max(x.at(high) - x.at(low), 1)
    return [
        f'<rect x="{x.at(low)}" y="{_TOP}" width="{width:.1f}" height="{_HEIGHT - _BOTTOM - _TOP}" fill="#f3e3b3"/>',
        f'<text x="{x.at(low)}" y="{_TOP - 4}" text-anchor="end" fill="#7a5c00">capacity</text>',
    ]


def _grid(x: _Axis, y: _Axis, x_label: str, y_label: str) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for tick in x.ticks():
        parts.append(f'<line x1="{x.at(tick)}" y1="{_TOP}" x2="{x.at(tick)}" y2="{bottom}" stroke="#ddd"/>')
        parts.append(f'<text x="{x.at(tick)}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>')
    for tick in y.ticks():
        parts.append(f'<line x1="{_LEFT}" y1="{y.at(tick)}" x2="{right}" y2="{y.at(tick)}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y.at(tick) + 4}" text-anchor="end">{tick:g}</text>')
    middle = (_TOP + bottom) / 2
    return [
        *parts,
        f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 14}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text transform="translate(20 {middle}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>',
    ]


def _drawn(line: Line, colour: str, number: int, x: _Axis, y: _Axis) -> list[str]:
    right, height = _WIDTH - _RIGHT, _TOP + 12 + 36 * number
    points = " ".join(f"{x.at(px)},{y.at(py)}" for px, py in line.points)
    parts = [f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>']
    parts += [f'<circle cx="{x.at(px)}" cy="{y.at(py)}" r="3" fill="{colour}"/>' for px, py in line.points]
    parts.append(f'<text x="{right + 12}" y="{height}" fill="{colour}">{escape(line.name)}</text>')
    if line.limit:
        at = y.at(line.limit)
        dash = 'stroke-dasharray="6 4"'
        parts.append(f'<line x1="{_LEFT}" y1="{at}" x2="{right}" y2="{at}" stroke="{colour}" {dash}/>')
        parts.append(f'<text x="{right + 12}" y="{height + 15}" fill="{colour}">limit {line.limit:g}</text>')
    return parts
