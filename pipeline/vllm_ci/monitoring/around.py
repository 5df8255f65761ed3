"""The hours around a release: which stretches of time are compared, their data, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm_ci.domain.report import Verdict
from vllm_ci.monitoring.compare import LEAST_BLOCKS, Finding, Window, compare
from vllm_ci.monitoring.promql import duration, fill
from vllm_ci.monitoring.signals import BY_NAME, SIGNALS, Signal

BLOCKS = 24
_LEAST_STEP_S = 60.0

Ask = Callable[..., Mapping[float, float]]
"""``ask(expr, start=, end=, step=)``: values by time, as :meth:`vllm_ci.monitoring.prometheus.Prometheus.series`."""


@dataclass(frozen=True, kw_only=True)
class Stretches:
    """What is compared; times in seconds since 1970.

    Attributes:
        released: When the channel was moved.
        settle_s: Time after it that is left out: servers start and caches are cold.
        seconds: Length of the stretch before; that after is as long, or as long as it is yet.
        now: The present.
        since: The stretch before does not begin earlier: another release came in then.
    """

    released: float
    settle_s: float
    seconds: float
    now: float
    since: float = 0.0

    @property
    def step(self) -> float:
        """Length of a block."""
        return float(max(_LEAST_STEP_S, self.seconds // BLOCKS))

    @property
    def blocks(self) -> tuple[int, int]:
        """Number of blocks before the release, and after it."""
        whole = int(self.seconds // self.step)
        room = (self.released - self.since, self.now - self.released - self.settle_s)
        earlier, later = (max(0, min(whole, int(each // self.step))) for each in room)
        return earlier, later

    @property
    def complete(self) -> bool:
        """All of the time after the release has passed."""
        return self.blocks[1] == int(self.seconds // self.step)

    @property
    def before(self) -> tuple[float, float]:
        """From, to."""
        return self.released - self.blocks[0] * self.step, self.released

    @property
    def after(self) -> tuple[float, float]:
        """From, to."""
        start = self.released + self.settle_s
        return start, start + self.blocks[1] * self.step


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The result.

    Attributes:
        stretches: What was compared.
        findings: Of every signal, in the order of the list.
    """

    stretches: Stretches
    findings: tuple[Finding, ...] = field(default=())

    @property
    def worse(self) -> tuple[Finding, ...]:
        """Those that became worse."""
        return tuple(each for each in self.findings if each.state == "worse")

    @property
    def verdict(self) -> Verdict:
        """Failed when a signal became worse; inconclusive when one that should be known is not."""
        if self.worse:
            return Verdict.FAILED
        known = self.findings and all(each.state in ("fine", "shown", "not measured") for each in self.findings)
        return Verdict.PASSED if known else Verdict.INCONCLUSIVE


def look(ask: Ask, labels: Mapping[str, str], stretches: Stretches, margins: Mapping[str, float]) -> Compared:
    """Compare the time after a release with that before.

    Args:
        ask: Gives data.
        labels: Of the channel's series.
        stretches: What is compared.
        margins: Tolerated changes by signal instead of the list's own.
    """
    if stretches.blocks[1] < LEAST_BLOCKS:
        return Compared(stretches=stretches)
    findings = []
    for signal in SIGNALS:
        before = _window(ask, signal, labels, stretches.before, stretches.step)
        after = _window(ask, signal, labels, stretches.after, stretches.step)
        findings.append(compare(signal, before, after, margin=margins.get(signal.name)))
    return Compared(stretches=stretches, findings=tuple(findings))


def _window(ask: Ask, signal: Signal, labels: Mapping[str, str], stretch: tuple[float, float], block: float) -> Window:
    start, end = stretch
    # Changes between two blocks would be in neither.
    step = end - start if signal.kind == "events" else block

    def values(template: str) -> Mapping[float, float]:
        return ask(fill(template, labels, duration(step)), start=start + step, end=end, step=step)

    whole = values(signal.expr)
    part: Mapping[float, float] = values(signal.part) if signal.part else {}
    if signal.kind == "share":  # a block without requests says nothing
        whole = {at: value for at, value in whole.items() if value > 0}
    return Window(expected=round((end - start) / step), seconds=end - start, values=whole, part=part)


def to_json(compared: Compared) -> list[dict[str, Any]]:
    """The findings for programs."""
    return [
        {
            "name": each.signal,
            "title": BY_NAME[each.signal].title,
            "unit": BY_NAME[each.signal].unit,
            "state": each.state,
            "before": each.before,
            "after": each.after,
            "change": {"value": each.change.value, "low": each.change.low, "high": each.change.high} if each.change else None,
            "margin": each.margin,
            "message": each.message,
        }
        for each in compared.findings
    ]
