"""A Grafana dashboard of the recorded signals (Grafana's JSON model, schema version 41)."""

from __future__ import annotations

from typing import Any

from vllm_ci.monitoring.rules import bad_series, recorded
from vllm_ci.monitoring.signals import SIGNALS, Signal
from vllm_ci.monitoring.slo import BURNS, Objective

SCHEMA_VERSION = 41
_WIDTH, _HEIGHT, _COLUMNS = 8, 7, 3
_DATA = {"type": "prometheus", "uid": "${datasource}"}
_CHANNEL = '{channel="$channel"}'


def document(objectives: tuple[Objective, ...], *, title: str = "vLLM channels") -> dict[str, Any]:
    """The dashboard: error budgets first, then one panel for each signal.

    Args:
        objectives: Whose budgets are shown.
        title: Of the dashboard.
    """
    panels = [_budget(each) for each in objectives] + [_panel(each) for each in SIGNALS]
    return {
        "title": title,
        "uid": "vllm-ci-channels",
        "tags": ["vllm", "vllm-ci"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "timezone": "browser",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_data_source(), _channels()]},
        "annotations": {"list": []},
        "links": [],
        "panels": [{**panel, **_place(index)} for index, panel in enumerate(panels)],
    }


def _place(index: int) -> dict[str, Any]:
    row, column = divmod(index, _COLUMNS)
    return {"id": index + 1, "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}}


def _data_source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0, "refresh": 1}


def _channels() -> dict[str, Any]:
    query = f"label_values({recorded('up')}, channel)"
    return {
        "name": "channel",
        "label": "Channel",
        "type": "query",
        "datasource": _DATA,
        "definition": query,
        "query": {"query": query, "refId": "channels"},
        "refresh": 2,
        "sort": 1,
        "multi": False,
        "includeAll": False,
        "hide": 0,
    }


def _panel(signal: Signal) -> dict[str, Any]:
    limit = [float(signal.alert.when.split()[1])] if signal.alert else []
    below = bool(signal.alert) and signal.alert.when.startswith("<") if signal.alert else False
    return _series(
        signal.title, signal.action, signal.unit, [(signal.name, f"{recorded(signal.name)}{_CHANNEL}")], limit, below
    )


def _budget(objective: Objective) -> dict[str, Any]:
    hours = sorted({burn.hours for burn in BURNS})
    targets = [
        (f"{hour:g} h", f"{bad_series(objective.name, hour * 3600)}{_CHANNEL} / {objective.budget:.6g}") for hour in hours
    ]
    limits = sorted(burn.rate(objective.days) for burn in BURNS if burn.severity == "page")[:1]
    about = f"{objective.target:.4%} {objective.title} in {objective.days:g} days. At 1 the budget lasts exactly so long."
    return _series(f"Burn rate of the error budget: {objective.name}", about, "none", targets, limits, below=False)


def _series(
    title: str, about: str, unit: str, targets: list[tuple[str, str]], limits: list[float], below: bool
) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "red" if below else "green", "value": None}]
    steps += [{"color": "green" if below else "red", "value": limit} for limit in limits]
    return {
        "type": "timeseries",
        "title": title,
        "description": about,
        "datasource": _DATA,
        "fieldConfig": {
            "defaults": {
                "unit": unit,
                "color": {"mode": "palette-classic"},
                "custom": {
                    "drawStyle": "line",
                    "lineWidth": 1,
                    "fillOpacity": 10,
                    "showPoints": "never",
                    "spanNulls": False,  # no data looks like no data
                    "thresholdsStyle": {"mode": "dashed" if limits else "off"},
                },
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": len(targets) > 1, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _DATA,
                "editorMode": "code",
                "expr": expr,
                "legendFormat": name,
                "range": True,
            }
            for index, (name, expr) in enumerate(targets)
        ],
    }
