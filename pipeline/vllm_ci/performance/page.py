"""The page of a sweep: its result, the curves of latency over rate, and every step. One HTML file that loads nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from vllm_ci.performance.curve import Line, chart
from vllm_ci.performance.figures import Figures, Spread
from vllm_ci.performance.sweep import Capacity

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Capacity of {{ model }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
body { color: #222; background: #fff }
table { border-collapse: collapse; width: 100% }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: right }
th:last-child, td:last-child { text-align: left }
svg { max-width: 100%; height: auto }
</style>
<h1>Capacity of {{ model }}</h1>
<p><strong>{{ summary }}</strong></p>
{% for reason in reasons %}<p>{{ reason }}</p>
{% endfor %}<p>{{ setting }}</p>
{% for picture in pictures %}{{ picture | safe }}
{% endfor %}<h2>Steps</h2>
<table>
<tr><th>requests/s</th><th>requests</th><th>good</th><th>ttft p50 ms</th><th>tpot p50 ms</th><th>e2e p50 ms</th>\
<th>tokens/s</th><th>result</th></tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
</html>
"""
_LATENCIES = (("ttft_ms", "time to first token"), ("tpot_ms", "time per output token"), ("e2e_ms", "time of the answer"))


def summary(found: Capacity) -> str:
    """The result in one sentence."""
    low, high = found.low, found.high
    if low is None:
        return "no rate surely meets the objective" if found.steps else "no step was made"
    if high is None:
        return f"at least {low:.3g} requests/s; no rate surely misses the objective"
    return f"{low:.3g} requests/s meet the objective; the first rate that surely does not is {high:.3g}"


def pictures(found: Capacity) -> list[str]:
    """A chart of each latency over the rate, as SVG."""
    drawn = []
    for field, title in _LATENCIES:
        lines = [_line(found, field, percent) for percent in (50.0, 90.0)]
        lines = [line for line in lines if line.points]
        if lines:
            unit = {"x_label": "requests/s", "y_label": "ms"}
            drawn.append(chart(f"{title} over rate", lines, band=(found.low, found.high), **unit))
    return drawn


def _line(found: Capacity, field: str, percent: float) -> Line:
    limit = getattr(found.steps[0].measurement.setting.objective, field) if found.steps else None
    points = []
    for step in found.steps:
        spread: Spread | None = getattr(step.measurement.figures, field)
        if spread is not None and percent in spread.percentiles:
            points.append((step.rate, spread.percentiles[percent]))
    # The limit is drawn once, on the line that the share of good requests is about.
    shown = limit if abs(percent / 100 - found.share) < 0.01 or (percent == 50.0 and found.share != 0.9) else None
    return Line(name=f"p{percent:g}", points=points, limit=shown)


def write(folder: Path, found: Capacity, *, facts: dict[str, Any]) -> Path:
    """Write ``sweep.html``.

    Args:
        folder: Made if it does not exist.
        found: The sweep.
        facts: Server and model.

    Returns:
        The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_PAGE)
    setting = found.steps[0].measurement.setting.facts if found.steps else {}
    text = template.render(
        model=facts.get("model", ""),
        summary=summary(found),
        reasons=found.reasons,
        setting=f"{setting.get('workload', '')} ({setting.get('source', '')}); objective {setting.get('objective', {})}",
        pictures=pictures(found),
        rows=[[*_row(step.rate, step.good, step.measurement.figures), step.why or "met"] for step in found.steps],
    )
    page = folder / "sweep.html"
    page.write_text(text, encoding="utf-8")
    return page


def _row(rate: float, good: float, figures: Figures) -> list[str]:
    def median(spread: Spread | None) -> str:
        return f"{spread.percentiles[50.0]:.1f}" if spread and 50.0 in spread.percentiles else "-"

    latencies = [median(spread) for spread in (figures.ttft_ms, figures.tpot_ms, figures.e2e_ms)]
    return [f"{rate:.3g}", str(figures.requests), f"{good:.0%}", *latencies, f"{figures.output_tokens_per_s:.1f}"]
