"""A picture of a deployment's course, as one SVG file: shares, requests, errors and times to the first byte over time."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from vllm_ci.deploy.course import Course, Point
from vllm_ci.deploy.deployment import Deployment

_WIDTH, _HEIGHT, _HEAD = 900, 230, 40
_COLOURS = ("#6b7280", "#2563eb")
_DECLARATION = re.compile(r"<\?xml[^>]*\?>|<!--.*?-->", re.DOTALL)

_Line = list[tuple[float, float | None]]


def svg(deployment: Deployment, course: Course) -> str:
    """The picture; grey is the old revision, blue the new one."""
    change = deployment.plan.change
    names = {change.old: f"before ({_commit(deployment, change.old)})", change.new: f"new ({_commit(deployment, change.new)})"}
    names.pop("", None)
    begun = _begin(deployment, course.points)
    panels: Mapping[str, Callable[[str], _Line]] = {
        "Share of the requests, %": lambda name: _shares(deployment, name, begun, course.points),
        "Requests per second": lambda name: _line(course.points, begun, lambda each: _rate(each, name)),
        "Failed requests, %": lambda name: _line(course.points, begun, lambda each: _failed(each, name)),
        "Time to the first byte, p95, ms": lambda name: _line(course.points, begun, lambda each: each.ttft_ms.get(name)),
    }
    lines = {title: {names[name]: line(name) for name in names} for title, line in panels.items()}
    end = max((at for panel in lines.values() for line in panel.values() for at, _ in line), default=1.0)
    drawn = [_panel(title, each, end) for title, each in lines.items()]
    return _sheet(f"{deployment.channel}: {deployment.plan.strategy}, {deployment.phase}", drawn)


def _commit(deployment: Deployment, name: str) -> str:
    found = deployment.revisions.get(name)
    return found.commit[:12] if found else name


def _begin(deployment: Deployment, points: Sequence[Point]) -> float:
    times = [datetime.fromisoformat(each.at).timestamp() for each in deployment.happened if each.weights]
    return min([*times, *(each.at - each.seconds for each in points)], default=0.0)


def _shares(deployment: Deployment, name: str, begun: float, points: Sequence[Point]) -> _Line:
    """Steps: a share holds until the next one."""
    line: _Line = []
    turns = [
        (datetime.fromisoformat(each.at).timestamp() - begun, each.weights) for each in deployment.happened if each.weights
    ]
    for at, weights in turns:
        if line:
            line.append((at, line[-1][1]))
        line.append((at, float(weights.get(name, 0))))
    if line and points:
        line.append((max(line[-1][0], points[-1].at - begun), line[-1][1]))
    return line


def _line(points: Sequence[Point], begun: float, value: Callable[[Point], float | None]) -> _Line:
    return [(each.at - begun, value(each)) for each in points]


def _rate(point: Point, name: str) -> float:
    return point.requests.get(name, 0) / point.seconds if point.seconds else 0.0


def _failed(point: Point, name: str) -> float | None:
    count = point.requests.get(name, 0)
    return 100 * point.errors.get(name, 0) / count if count else None


def _panel(title: str, lines: Mapping[str, _Line], end: float) -> str:
    import pygal
    from pygal.style import Style

    style = Style(background="white", plot_background="white", colors=_COLOURS[-len(lines) :], font_family="sans-serif")
    options: dict[str, Any] = {"js": (), "style": style, "width": _WIDTH, "height": _HEIGHT, "show_dots": True, "dots_size": 2}
    options |= {"min_scale": 3, "max_scale": 6, "include_x_axis": True, "xrange": (0, end), "truncate_legend": -1}
    chart = pygal.XY(**options, title=title, x_title="seconds")
    for name, line in lines.items():
        chart.add(name, line, allow_interruptions=True)
    return _DECLARATION.sub("", chart.render(is_unicode=True)).strip()


def _sheet(title: str, panels: Sequence[str]) -> str:
    placed = [
        panel.replace("<svg ", f'<svg x="0" y="{_HEAD + index * _HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" ', 1)
        for index, panel in enumerate(panels)
    ]
    height = _HEAD + len(panels) * _HEIGHT
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}">',
            '<rect width="100%" height="100%" fill="white"/>',
            f'<text x="16" y="26" font-family="sans-serif" font-size="18">{_escaped(title)}</text>',
            *placed,
            "</svg>\n",
        ]
    )


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
