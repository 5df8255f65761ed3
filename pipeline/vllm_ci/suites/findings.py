"""Security findings: a stable id, a severity, and who lives with what until when."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vllm_ci.domain.stage import SEVERITIES, AcceptedFinding


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that an attacker could use.

    Attributes:
        id: Stable: a kind, and where it was seen (``open-route:POST /invocations``).
        severity: One of ``low``, ``medium``, ``high``, ``critical``.
        message: What was seen and why it matters, in one line.
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
    """Findings sorted by what follows from them.

    Attributes:
        failing: Fail the case.
        accepted: Listed by the user, with a reason, and not expired.
        expired: Listed, but the date has passed; they are among the failing as well.
        minor: Below the severity that fails.
    """

    failing: tuple[Finding, ...]
    accepted: tuple[Finding, ...]
    expired: tuple[Finding, ...]
    minor: tuple[Finding, ...]

    def __str__(self) -> str:
        late = {finding.id for finding in self.expired}
        lines = [
            f"{finding}{' (was accepted, but the date has passed)' if finding.id in late else ''}" for finding in self.failing
        ]
        return "; ".join(lines)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What decides about findings.

    Attributes:
        accepted: Findings that the user lives with.
        fail_on: Least severity that fails.
        today: Day on which acceptance is judged.
    """

    accepted: Sequence[AcceptedFinding] = ()
    fail_on: str = "medium"
    today: dt.date

    def judge(self, findings: Iterable[Finding]) -> Judgement:
        """Sort findings; acceptance counts until its last day, whatever the severity."""
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
