"""Renders a report as one self-contained HTML file, which loads nothing and runs only its own script."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape

from vllm_ci import __version__
from vllm_ci.domain import refs
from vllm_ci.domain.causes import Cause, causes_of_report, headline, skips_of
from vllm_ci.domain.claims import exchange_of
from vllm_ci.domain.plain import excerpt, visible
from vllm_ci.domain.report import Case, CaseStatus, Report, Verdict
from vllm_ci.report import findings, links, log_lines, plots, reproduce, timeline
from vllm_ci.report.causes import CausesOfCases, other_properties
from vllm_ci.report.sentences import sentence

_HERE = Path(__file__).parent


def _shown(value: object) -> object:
    """What the template prints: texts without characters that a page would not show, or would obey."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_HERE),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
    finalize=_shown,
)
_LONG = 400
_FIGURES = ("mean", "min", "p50", "p90", "p99", "max")
# With no more cases than this, those that failed are shown unfolded below the causes.
_FEW = 3
# So many cases of a cause are listed unfolded.
_SHOWN_CASES = 8
_LONGEST_DETAILS = 20_000
_NO_ANCHOR = re.compile(r"[^A-Za-z0-9_.:/\[\]-]+")
_LOG = re.compile(r"logs/[^/?#]+\.log")
_ADDRESS = re.compile(r"(https?://[\w./#?=&%+~:@,-]*[\w/#=&])")


def from_report(report: Report, logs: Mapping[str, str] | None = None) -> str:
    """Render the HTML page.

    Args:
        report: The report.
        logs: Logs by name, beyond those of the stages; lines of them that report an error are shown.
    """
    causes = causes_of_report(report)
    return page(
        "report.html.j2",
        styles=("report.css",),
        script="report.js",
        **_sections(report, causes, logs or {}),
        report=report,
        causes=causes,
        headline=_headline(report, causes),
        skips=skips_of(report.stages),
        few=sum(cause.count for cause in causes) <= _FEW,
        statuses=list(CaseStatus),
        shown_cases=_SHOWN_CASES,
        longest_details=_LONGEST_DETAILS,
        causes_of=CausesOfCases(causes).of,
        properties=other_properties,
        exchange=exchange_of,
        **{each.__name__: each for each in (anchor, cases, comparison, excerpt, facts, grouped, linked, log_page)},
        **{each.__name__: each for each in (place, section, ticked)},
        bytes=bytes_,
        pull_request_page=links.pull_request,
        advisory=links.advisory,
        repeating=reproduce.command,
        needs_server=reproduce.needs_server,
    )


def page(template: str, *, styles: Iterable[str], script: str, **values: Any) -> str:
    """A page that loads nothing, with a content security policy for its own style and script.

    Args:
        template: Its template.
        styles: Files of its style.
        script: File of its script.
        values: What the template uses.
    """
    style = "".join((_HERE / name).read_text(encoding="utf-8") for name in styles)
    code = (_HERE / script).read_text(encoding="utf-8")
    return _ENVIRONMENT.get_template(template).render(
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(code),  # noqa: S704 - our own file
        style_hash=_hash(style),
        script_hash=_hash(code),
        version=__version__,
        short=refs.short,
        said=sentence,
        seconds=seconds,
        to=to,
        commit_page=links.commit,
        **values,
    )


def _sections(report: Report, causes: tuple[Cause, ...], logs: Mapping[str, str]) -> dict[str, Any]:
    """What the sections of the page show, and the titles of those that it has."""
    # The problem of a run names its own line; errors that a passing suite caused on purpose would only be noise.
    quiet = report.problem is not None or report.verdict is Verdict.PASSED
    lines = [] if quiet else log_lines.errors(logs)
    speed = [(stage.name, plots.distributions(stage), plots.percentiles(stage)) for stage in report.stages]
    made: dict[str, Any] = {
        "lines": lines,
        "bars": timeline.bars(report),
        "speed": [each for each in speed if each[1] or each[2]],
        "arrivals": list(plots.streams(report)),
        "findings": findings.of(report),
        "total_bytes": sum({layer.digest: layer.size_bytes for layer in report.layers}.values()),
        "platforms": len({layer.platform for layer in report.layers}),
    }
    there = {
        "wrong": ("What is wrong", causes),
        "logs": ("Logs", lines),
        "stages": ("Stages", True),
        "timeline": ("Time", made["bars"]),
        "speed": ("Latencies", made["speed"] or made["arrivals"]),
        "image": ("Image", report.layers),
        "findings": ("Findings", made["findings"]),
        "cases": ("Cases", True),
        "server": ("Server", report.server),
        "machine": ("Machine", True),
    }
    return {**made, "parts": [(id_, title) for id_, (title, found) in there.items() if found]}


def _headline(report: Report, causes: tuple[Cause, ...]) -> str:
    """The result in one line: what is wrong, or how much passed."""
    total = sum(len(stage.cases) for stage in report.stages)
    if found := headline(causes, total):
        return found
    if report.problem is not None:
        return report.problem.summary
    if report.verdict is not Verdict.PASSED:
        return f"{total} cases, no verdict of a stage" if total else "no case ran"
    skipped = sum(stage.count(CaseStatus.SKIPPED) for stage in report.stages)
    return f"{cases(total - skipped)} passed" + (f", {skipped} skipped" if skipped else "")


def _hash(text: str) -> str:
    """Of an inline element, for a content security policy (W3C CSP Level 3, section 2.3.1)."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def to(address: str, text: str, *, code: bool = False) -> Markup:
    """HTML of a text, as a link if there is an address."""
    shown = f"<code>{escape(visible(text))}</code>" if code else str(escape(visible(text)))
    html = f'<a href="{escape(address)}" rel="noreferrer">{shown}</a>' if address else shown
    return Markup(html)  # noqa: S704 - escaped above


def log_page(path: str) -> str:
    """Address of a log from the page; empty for anything else, such as an address elsewhere."""
    return quote(path, errors="replace") if _LOG.fullmatch(path) else ""


def section(stage: str) -> str:
    """Id of the section of a stage."""
    return f"stage-{_id(stage)}"


def bytes_(size: int) -> str:
    """``84 kB``, ``29.1 MB`` or ``8.41 GB``."""
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 999.5:  # more is 1000 in three digits, which would be written as 1e+03
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.2f} GB"


def _id(name: str) -> str:
    """The name as part of an id; two names that differ only in characters that an id cannot have keep different ids."""
    plain = _NO_ANCHOR.sub("-", name)
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:8]}"


def anchor(cause: Cause) -> str:
    """Id of the element of a cause, for links to it from outside."""
    return f"cause-{_id(cause.id)}"


def place(stage: str, case: str) -> str:
    """Id of the row of a case: its name, where that begins with the stage and cannot be the id of something else."""
    return _id(case) if case.startswith(f"{stage}/") and "::" in case else f"case-{_id(f'{stage}-{case}')}"


def cases(count: int) -> str:
    """``1 case`` or ``12 cases``."""
    return f"{count} case{'' if count == 1 else 's'}"


def linked(text: str) -> Markup:
    """HTML of a text, with links where it has addresses of pages."""
    pieces = [
        f'<a href="{escape(piece)}" rel="noreferrer">{escape(piece)}</a>' if number % 2 else str(escape(visible(piece)))
        for number, piece in enumerate(_ADDRESS.split(text))
    ]
    return Markup("".join(pieces))  # noqa: S704 - escaped above


def ticked(text: str) -> Markup:
    """HTML of a text, with the parts between backticks as code."""
    pieces = [str(escape(visible(piece))) for piece in text.split("`")]
    return Markup("".join(f"<code>{piece}</code>" if number % 2 else piece for number, piece in enumerate(pieces)))  # noqa: S704


def seconds(value: float) -> str:
    """``12 ms``, ``3.4 s`` or ``2 min 5 s``."""
    if not math.isfinite(value):
        return "unknown"
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    if value < 99.95:
        return f"{value:.1f} s"
    return f"{int(value) // 60} min {int(value) % 60} s"


def facts(values: Mapping[str, object] | Case) -> list[tuple[str, str]]:
    """Facts and figures as (name, text): nested names are joined by dots, long values are truncated."""
    if isinstance(values, Case):
        values = values.properties
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and "p50" not in value:
            found += [(f"{name}.{inner}", text) for inner, text in facts(value)]
        else:
            found.append((str(name), _text(value)))
    return found


def grouped(values: Mapping[str, object]) -> dict[str, object]:
    """Facts in which the figures of a distribution (``ttft_ms_p50``, ``ttft_ms_p90`` ...) are one fact (``ttft_ms``)."""
    found: dict[str, object] = {}
    families: dict[str, list[str]] = {}
    for name, value in values.items():
        if value in ("", [], ()) or name == "percentiles":  # how they were computed is said once, in docs/measuring.md
            continue
        family, _, figure = name.rpartition("_")
        if figure in _FIGURES and f"{family}_p50" in values and not isinstance(value, Mapping):
            families.setdefault(family, []).append(f"{figure} {_text(value)}")
            found[family] = ""  # keeps its place
        else:
            found[name] = value
    return {**found, **{family: ", ".join(figures) for family, figures in families.items()}}


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
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(figure)}" for name, figure in value.items() if name != "count")
    text = visible(str(value))
    return text if len(text) <= _LONG else f"{text[:_LONG]}…"
