"""Security findings with a stable id and a severity, and the policy that accepts some of them until a date."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vllm_ci.domain.stage import SEVERITIES, AcceptedFinding


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A weakness that an attacker could use.

    Attributes:
        id: Stable id: kind and place (``open-route:POST /invocations``).
        severity: One of ``low``, ``medium``, ``high``, ``critical``.
        message: What was found and why it matters, in one line.
    """

    id: str
    severity: str
    message: str

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"not a severity: {self.severity!r}")

    def __str__(self) -> str:
        return f"[{self.severity}] {self.id}: {self.message}"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Findings, sorted by consequence.

    Attributes:
        failing: Findings that fail the case.
        accepted: Findings that the user accepts, with a reason, and not expired.
        expired: Findings whose acceptance has expired; they are also in ``failing``.
        minor: Findings below the severity that fails.
    """

    failing: tuple[Finding, ...]
    accepted: tuple[Finding, ...]
    expired: tuple[Finding, ...]
    minor: tuple[Finding, ...]

    def __str__(self) -> str:
        late = {finding.id for finding in self.expired}
        lines = [
            f"{finding}{' (was accepted, but this has expired)' if finding.id in late else ''}" for finding in self.failing
        ]
        return "; ".join(lines)


@dataclass(frozen=True, kw_only=True)
class FindingPolicy:
    """Decides which findings fail.

    Attributes:
        accepted: Findings that the user accepts.
        fail_on: Lowest severity that fails.
        today: Date that is compared with the last day of acceptance.
    """

    accepted: Sequence[AcceptedFinding] = ()
    fail_on: str = "medium"
    today: dt.date

    def judge(self, findings: Iterable[Finding]) -> Judgement:
        """Sort findings; findings of any severity can be accepted, up to and including the last day."""
        listed = {entry.id: entry for entry in self.accepted}
        failing, accepted, expired, minor = [], [], [], []
        for finding in findings:
            entry = listed.get(finding.id)
            if entry is not None and self.today <= entry.until:
                accepted.append(finding)
            elif SEVERITIES.index(finding.severity) < SEVERITIES.index(self.fail_on):
                minor.append(finding)
            else:
                failing.append(finding)
                if entry is not None:
                    expired.append(finding)
        return Judgement(failing=tuple(failing), accepted=tuple(accepted), expired=tuple(expired), minor=tuple(minor))
