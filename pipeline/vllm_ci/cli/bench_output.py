"""Tables of ``vllm-ci bench``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from vllm_ci.domain.plain import one_line, visible

_SHORT_S = 30.0
"""Runs that are shorter say nothing about growth."""
_SOAK_S = 300.0
"""Runs of this length are read as soak tests: the growth of latencies is shown."""

if TYPE_CHECKING:
    from vllm_ci.performance.figures import Spread
    from vllm_ci.performance.history import Series
    from vllm_ci.performance.measuring import Measurement
    from vllm_ci.performance.sweep import Capacity, Step
    from vllm_ci.performance.trend import Trend
    from vllm_ci.performance.versus import Comparison, Ratio


def measurement(found: Measurement) -> None:
    """Print the figures as a table."""
    figures = found.figures
    rows: list[tuple[str, str]] = [
        ("requests", f"{figures.requests} in {figures.duration_s:.1f} s, {figures.requests_per_s:.2f}/s"),
        ("output tokens", f"{figures.output_tokens_per_s:.1f}/s"),
    ]
    if figures.total_tokens_per_s is not None:
        rows.append(("all tokens", f"{figures.total_tokens_per_s:.1f}/s"))
    if figures.goodput_per_s is not None:
        share = figures.goodput_per_s / figures.requests_per_s if figures.requests_per_s else 0.0
        rows.append(("goodput", f"{figures.goodput_per_s:.2f}/s ({share:.0%} of the answers meet the objective)"))
    for name, values in (("ttft", figures.ttft_ms), ("tpot", figures.tpot_ms), ("e2e", figures.e2e_ms)):
        rows.append((name, spread(values)))
    if gaps := figures.inter_chunk_latency_ms:
        rows.append(("inter-chunk", "  ".join(f"{key} {value:.1f}" for key, value in gaps.items()) + " ms"))
    rows.append(("send lag", spread(figures.lag_ms)))
    if figures.short_answers:
        rows.append(("short answers", f"{figures.short_answers} ended before the requested length"))
    if figures.undone:
        rows.append(("without [DONE]", f"{figures.undone} streams ended with a finish reason only; they count"))
    rows += [(f"server: {name.replace('_', ' ')}", f"{grown:.0f}") for name, grown in found.counters.items()]
    if found.delayed_turns:
        rows.append(("delayed turns", f"{found.delayed_turns} waited for the answer before them, and were due when it ended"))
    table([*rows, *_used(found)])
    verdict(found.verdict, found.reasons)


def spread(found: Spread | None) -> str:
    """Mean and percentiles in ms, and from how many requests the missing ones are shown."""
    if found is None:
        return "-"
    known = "  ".join(f"p{percent:g} {value:.1f}" for percent, value in found.percentiles.items())
    missing = ", ".join(f"p{percent:g} from {least}" for percent, least in found.missing.items())
    return f"mean {found.mean:.1f}  {known} ms" + (f"  ({missing} requests on)" if missing else "")


def _used(found: Measurement) -> list[tuple[str, str]]:
    """Rows on what the server used."""
    used, rows = found.resources, []
    for name, title in (("rss_bytes", "memory (RSS)"), ("pss_bytes", "memory (PSS)"), ("gpu_bytes", "memory of GPUs")):
        if name in used.peak:
            rows.append((title, f"peak {used.peak[name] / 2**20:.0f} MiB{_grown(used.growth.get(name), 2**20, 'MiB')}"))
    if "open_files" in used.peak:
        rows.append(("open files", f"peak {used.peak['open_files']:.0f}{_grown(used.growth.get('open_files'), 1, '')}"))
    if used.cpu_s is not None:
        each = found.cpu_s_per_1000_tokens
        rows.append(("processor", f"{used.cpu_s:.1f} s" + (f", {each:.3f} s for 1,000 tokens" if each is not None else "")))
    if "kv_cache_share" in used.peak:
        rows.append(("KV cache", f"peak {used.peak['kv_cache_share']:.1%}"))
    if "waiting" in used.peak:
        rows.append(("queue", f"peak {used.peak['waiting']:.0f} waiting, {used.peak.get('running', 0):.0f} running"))
    if found.setting.duration_s >= _SOAK_S:
        rows += [
            (f"{name.removesuffix('_ms')} growth", _grown(slope, 1, "ms").strip(", ")) for name, slope in found.growth.items()
        ]
    return rows


def _grown(slope: Trend | None, unit: float, name: str) -> str:
    if slope is None or slope.seconds < _SHORT_S:
        return ""
    low, middle, high = (f"{value / unit:+.3g}" for value in (slope.low, slope.per_hour, slope.high))
    return f", growth {middle} {name} an hour ({low} to {high})".replace("  ", " ")


def table(rows: Sequence[tuple[str, ...]]) -> None:
    """Columns of text, the first ones padded."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]) - 1)]
    for row in rows:
        click.echo("  ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip())


def verdict(found: str, reasons: Sequence[str]) -> None:
    """Print a verdict and its reasons."""
    click.echo("\n".join([f"{found}", *(f"  {visible(reason)}" for reason in reasons)]))


def comparison(found: Comparison) -> None:
    """Print the ratios of two servers."""
    from vllm_ci.performance.versus import CAVEAT

    rows = [("metric", "better", "B / A", "95 % interval", "rounds", "")]
    table(rows + [_ratio(ratio) for ratio in found.ratios])
    if found.same:
        alarms = [ratio.metric for ratio in found.ratios if ratio.differs]
        shares = [f"{ratio.metric} {ratio.false_alarms:.1%}" for ratio in found.ratios if ratio.false_alarms is not None]
        click.echo(f"both arms are the same server; false alarms: {', '.join(alarms) or 'none'}")
        click.echo(f"expected share of false alarms (arms exchanged at random within rounds): {', '.join(shares) or '-'}")
    else:
        click.echo(CAVEAT)
    verdict(found.verdict, found.reasons)


def _ratio(ratio: Ratio) -> tuple[str, ...]:
    if ratio.ratio is None or ratio.low is None or ratio.high is None:
        return (ratio.metric, str(ratio.better), "-", "-", str(len(ratio.rounds)), "")
    said = "differs" if ratio.differs else "no difference seen"
    bounds = f"{ratio.low:.3f} to {ratio.high:.3f}"
    return (ratio.metric, str(ratio.better), f"{ratio.ratio:.3f}", bounds, str(len(ratio.rounds)), said)


def step(found: Step) -> str:
    """One line on a step of a sweep."""
    repeated = found.measurement.repeated
    return f"{found.rate:8.3g} requests/s: {found.good:4.0%} good, {found.why or 'met'}{repeated and f' ({repeated})'}"


def capacity(found: Capacity) -> None:
    """Print the result of a sweep."""
    from vllm_ci.performance.page import summary

    for each in sorted(found.steps, key=lambda each: each.rate):
        click.echo(step(each))
    click.echo(summary(found))
    verdict(found.verdict, found.reasons)


def history(found: Sequence[Series], left_out: Sequence[str]) -> None:
    """Print series by group, and the files that are in none."""
    from vllm_ci.performance.history import LEAST

    group = None
    for each in found:
        if each.group != group:
            group = each.group
            click.echo(one_line(", ".join(f"{name} {value}" for name, value in group.items()), 500))
        few = f" (change points from {LEAST} results on)" if len(each.values) < LEAST else ""
        click.echo(f"  {each.metric}: {len(each.values)} results, last {each.values[-1]:.4g}{few}")
        for change in each.changes:
            ratio = change.after / change.before - 1
            click.echo(
                f"    {one_line(change.at, 40)}: {change.before:.4g} to {change.after:.4g} ({ratio:+.1%}, p {change.p:.1g})"
            )
    if not found:
        click.echo("no results")
    for line in left_out:
        click.echo(f"left out: {one_line(line, 300)}")
