"""Renders a report as one self-contained HTML file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from vllm_ci import __version__
from vllm_ci.domain import refs
from vllm_ci.domain.causes import Cause, causes_of_report, headline, skips_of
from vllm_ci.domain.claims import exchange_of
from vllm_ci.domain.plain import visible
from vllm_ci.domain.report import Case, CaseStatus, Report
from vllm_ci.report.causes import CausesOfCases, other_properties

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
_LONG = 400
# With no more cases than this, those that failed are shown unfolded below the causes.
_FEW = 3
_NO_ANCHOR = re.compile(r"[^A-Za-z0-9_.:/\[\]-]+")
_ADDRESS = re.compile(r"(https?://[\w./#?=&%+~:@,-]*[\w/#=&])")


def from_report(report: Report) -> str:
    """Render the HTML page."""
    causes = causes_of_report(report)
    return _ENVIRONMENT.get_template("report.html.j2").render(
        report=report,
        causes=causes,
        headline=headline(causes, sum(len(stage.cases) for stage in report.stages)),
        skips=skips_of(report.stages),
        few=sum(cause.count for cause in causes) <= _FEW,
        statuses=list(CaseStatus),
        longest=max(report.timings.values(), default=0.0) or 1.0,
        version=__version__,
        causes_of=CausesOfCases(causes).of,
        seconds=seconds,
        facts=facts,
        comparison=comparison,
        properties=other_properties,
        exchange=exchange_of,
        anchor=anchor,
        place=place,
        cases=cases,
        short=refs.short,
        ticked=ticked,
        linked=linked,
        visible=visible,
    )


def anchor(cause: Cause) -> str:
    """Id of the element of a cause, for links to it from outside."""
    return f"cause-{_NO_ANCHOR.sub('-', cause.id)}"


def place(stage: str, case: str) -> str:
    """Id of the row of a case."""
    return f"case-{_NO_ANCHOR.sub('-', f'{stage}-{case}')}"


def cases(count: int) -> str:
    """``1 case`` or ``12 cases``."""
    return f"{count} case{'' if count == 1 else 's'}"


def linked(text: str) -> Markup:
    """HTML of a text, with links where it has addresses of pages."""
    pieces = [
        f'<a href="{escape(piece)}" rel="noreferrer">{escape(piece)}</a>' if number % 2 else str(escape(piece))
        for number, piece in enumerate(_ADDRESS.split(text))
    ]
    return Markup("".join(pieces))  # noqa: S704 - escaped above


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


def comparison(metrics: Mapping[str, object]) -> list[dict[str, str]]:
    """Rows of the table of a comparison with a baseline: one for each metric."""
    found = metrics.get("comparison")
    estimates = found.get("estimates") if isinstance(found, Mapping) else None
    naive = found.get("naive") if isinstance(found, Mapping) else None
    alone = naive.get("slowdown") if isinstance(naive, Mapping) else None
    if not isinstance(estimates, Mapping):
        return []
    rows = []
    for name, each in estimates.items():
        values = {key: f"{float(each[key]):+.1%}" for key in ("slowdown", "low", "high", "margin")}
        single = f"{float(alone[name]):+.1%}" if isinstance(alone, Mapping) and name in alone else ""
        counts = {"pairs": str(each["pairs"]), "spread": f"{float(each['spread']):.1%}", "decision": str(each["decision"])}
        rows.append({"metric": str(name), **values, **counts, "naive": single})
    return rows


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        shown = ", ".join(_text(each) for each in value[:12])
        return f"{shown}, … ({len(value)} values)" if len(value) > 12 else shown
    text = visible(str(value))
    return text if len(text) <= _LONG else f"{text[:_LONG]}…"
