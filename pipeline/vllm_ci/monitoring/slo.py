"""Objectives and error budgets: multi-window, multi-burn-rate alerts (Google's SRE Workbook, chapter 5, "Alerting on SLOs").

A *burn rate* of 1 uses up the budget exactly at the end of the period. An alert needs a long window, so that it means
something, and a short one (a twelfth of it), so that it ends soon after the fault does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SHORT = 12
"""The long window divided by the short one."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What share of the requests shall be good.

    Attributes:
        name: ``availability`` or ``ttft``.
        title: What a good request is.
        target: Share of good requests, more than 0 and less than 1.
        days: Length of the period.
        bad: PromQL of the share of bad requests, with ``<labels>`` and ``<window>``.
    """

    name: str
    title: str
    target: float
    days: float
    bad: str

    def __post_init__(self) -> None:
        if not 0 < self.target < 1:
            raise ValueError(f"the target of {self.name} must be between 0 and 1, not {self.target}")
        if self.days <= 0:
            raise ValueError(f"the period of {self.name} must be positive, not {self.days} days")

    @property
    def budget(self) -> float:
        """Share of bad requests that the objective allows."""
        return round(1 - self.target, 12)


@dataclass(frozen=True, kw_only=True)
class Burn:
    """An alert on how fast the budget is used.

    Attributes:
        share: Of the period's budget that is gone when it fires.
        hours: Length of the long window.
        severity: ``page`` or ``ticket``.
    """

    share: float
    hours: float
    severity: Literal["page", "ticket"]

    def rate(self, days: float) -> float:
        """The burn rate that uses ``share`` of a period's budget in the long window."""
        return self.share * days * 24 / self.hours

    @property
    def windows_s(self) -> tuple[float, float]:
        """Long and short window in seconds."""
        return self.hours * 3600, self.hours * 3600 / SHORT


BURNS = (
    Burn(share=0.02, hours=1, severity="page"),
    Burn(share=0.05, hours=6, severity="page"),
    Burn(share=0.10, hours=72, severity="ticket"),
)


def burn_rate(bad: float, objective: Objective) -> float:
    """How fast a share of bad requests uses the budget; 1: it lasts exactly for the period."""
    return bad / objective.budget
