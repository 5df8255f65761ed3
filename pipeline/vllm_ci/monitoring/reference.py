"""The tables of signals in ``docs/monitoring.md``; a test compares them: ``python -m vllm_ci.monitoring.reference``."""

from __future__ import annotations

import sys

from vllm_ci.monitoring.signals import SIGNALS, Signal


def table() -> str:
    """Every signal: what is judged, what is tolerated, when it calls a person."""
    rows = ["| signal | what it is | tolerated after a release | alert |", "|---|---|---|---|"]
    rows += [f"| `{each.name}` | {each.title} | {_tolerated(each)} | {_alert(each)} |" for each in SIGNALS]
    return "\n".join(rows) + "\n"


def _tolerated(signal: Signal) -> str:
    if signal.good == "neither":
        return "shown, not judged"
    if signal.kind == "share":
        return f"{signal.margin * 100:g} percentage points"
    if signal.kind == "growth":
        return f"{signal.margin:.0%} an hour"
    if signal.kind == "events":
        return "1, or as many as before"
    unit = " s" if signal.unit == "s" else ""
    return f"{signal.ratio:.0%}, at least {signal.margin:g}{unit}" if signal.ratio else f"{signal.margin:g}{unit}"


def _alert(signal: Signal) -> str:
    if signal.alert is None:
        return "by the error budget" if signal.name in ("errors", "ttft") else ""
    lasting = "" if signal.alert.lasts == "0s" else f" for {signal.alert.lasts}"
    return f"`{signal.alert.name}` {signal.alert.when}{lasting} ({signal.alert.severity})"


if __name__ == "__main__":
    sys.stdout.write(table())
