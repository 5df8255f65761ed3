"""Renders a report as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from vllm_ci import __version__
from vllm_ci.domain import refs
from vllm_ci.domain.report import Case, CaseStatus, Report

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
_LONG = 400


def from_report(report: Report) -> str:
    """Render the HTML page."""
    return _ENVIRONMENT.get_template("report.html.j2").render(
        report=report,
        statuses=list(CaseStatus),
        seconds=seconds,
        facts=facts,
        short=refs.short,
        ticked=ticked,
        version=__version__,
        longest=max(report.timings.values(), default=0.0) or 1.0,
    )


def ticked(text: str) -> Markup:
    """HTML of a text, with the parts between backticks as code."""
    pieces = [str(escape(piece)) for piece in text.split("`")]
    return Markup("".join(f"<code>{piece}</code>" if number % 2 else piece for number, piece in enumerate(pieces)))  # noqa: S704


def seconds(value: float) -> str:
    """``12 ms``, ``3.4 s`` or ``2 min 5 s``."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 100:
        return f"{value:.1f} s"
    return f"{int(value) // 60} min {int(value) % 60} s"


def facts(values: Mapping[str, object] | Case) -> list[tuple[str, str]]:
    """Facts and figures as (name, text): nested names are joined by dots, long values are truncated."""
    if isinstance(values, Case):
        values = values.properties
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += [(f"{name}.{inner}", text) for inner, text in facts(value)]
        else:
            found.append((str(name), _text(value)))
    return found


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        shown = ", ".join(_text(each) for each in value[:12])
        return f"{shown}, … ({len(value)} values)" if len(value) > 12 else shown
    text = str(value)
    return text if len(text) <= _LONG else f"{text[:_LONG]}…"
