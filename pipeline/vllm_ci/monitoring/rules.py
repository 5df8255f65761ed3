"""Prometheus rules of channels: recorded signals, shares of bad requests, and alerts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm_ci.monitoring.objectives import Targets
from vllm_ci.monitoring.promql import duration, fill
from vllm_ci.monitoring.signals import SIGNALS
from vllm_ci.monitoring.slo import BURNS, Burn, Objective


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A channel whose series are known.

    Attributes:
        channel: Its name; recorded series and alerts have it as the label ``channel``.
        labels: Of its series in Prometheus: those of the servers and of the gateway.
        targets: What it promises.
    """

    channel: str
    labels: Mapping[str, str]
    targets: Targets = field(default_factory=Targets)


def document(channels: Iterable[Watched]) -> dict[str, Any]:
    """Content of a file of rules."""
    return {"groups": [group for each in channels for group in _groups(each)]}


def operator(channels: Iterable[Watched], *, name: str) -> dict[str, Any]:
    """The same as a ``PrometheusRule``, which the Prometheus operator reads (monitoring.coreos.com/v1)."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": name},
        "spec": document(channels),
    }


def recorded(name: str) -> str:
    """Name of the series of a signal."""
    return f"vllm_ci:{name}"


def bad_series(objective: str, seconds: float) -> str:
    """Name of the series of an objective's share of bad requests over a window."""
    return f"vllm_ci:{objective}_bad:ratio_{duration(seconds)}"


def _groups(each: Watched) -> list[dict[str, Any]]:
    prefix, labels = f"vllm-ci-{each.channel}", {"channel": each.channel}
    signals = [
        {"record": recorded(signal.name), "expr": fill(signal.value, each.labels, signal.window), "labels": labels}
        for signal in SIGNALS
    ]
    objectives = each.targets.objectives()
    windows = sorted({seconds for burn in BURNS for seconds in burn.windows_s})
    budgets = [
        {
            "record": bad_series(objective.name, seconds),
            "expr": fill(objective.bad, each.labels, duration(seconds)),
            "labels": labels,
        }
        for objective in objectives
        for seconds in windows
    ]
    alerts = [_no_data(each), *_signal_alerts(each), *(_burning(each, o, burn) for o in objectives for burn in BURNS)]
    return [
        {"name": f"{prefix}-signals", "rules": signals},
        {"name": f"{prefix}-objectives", "rules": budgets},
        {"name": f"{prefix}-alerts", "rules": alerts},
    ]


def _no_data(each: Watched) -> dict[str, Any]:
    action = "See the page of targets in Prometheus; compare monitoring.channels in vllm-ci.yaml with the labels there."
    return _alert(
        "VllmNoData",
        fill("absent(up{<labels>})", each.labels, ""),
        channel=each.channel,
        lasts="5m",
        severity="page",
        summary=f"Prometheus scrapes nothing of {each.channel}",
        action=action,
    )


def _signal_alerts(each: Watched) -> list[dict[str, Any]]:
    return [
        _alert(
            signal.alert.name,
            f'{recorded(signal.name)}{{channel="{each.channel}"}} {signal.alert.when}',
            channel=each.channel,
            lasts=signal.alert.lasts,
            severity=signal.alert.severity,
            summary=f"{signal.alert.summary} ({each.channel}: {{{{ $value | humanize }}}})",
            action=signal.action,
        )
        for signal in SIGNALS
        if signal.alert
    ]


def _burning(each: Watched, objective: Objective, burn: Burn) -> dict[str, Any]:
    rate = burn.rate(objective.days)
    # A share cannot exceed 1: an objective that is so loose never burns that fast, and the alert would never fire.
    limit = min(rate * objective.budget, 0.9)
    long, short = (f'{bad_series(objective.name, seconds)}{{channel="{each.channel}"}}' for seconds in burn.windows_s)
    return _alert(
        f"Vllm{objective.name.capitalize()}BudgetBurns",
        f"{long} > {limit:.6g} and {short} > {limit:.6g}",
        channel=each.channel,
        lasts="0s",
        severity=burn.severity,
        summary=(
            f"{each.channel} uses its error budget for {objective.title} too fast: "
            f"{{{{ $value | humanizePercentage }}}} were bad in {duration(burn.windows_s[0])}"
        ),
        action="See errors, ttft and queue on the dashboard; vllm-ci watch CHANNEL tells whether it began with a release.",
        window=duration(burn.windows_s[0]),
    )


def _alert(
    name: str, expr: str, *, channel: str, lasts: str, severity: str, summary: str, action: str, window: str = ""
) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expr,
        "for": lasts,
        "labels": {"channel": channel, "severity": severity, **({"window": window} if window else {})},
        "annotations": {"summary": summary, "description": action},
    }
