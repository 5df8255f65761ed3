"""Security findings with a stable id and a severity, and the policy that accepts some of them until a date."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from vllm_ci.domain.stage import SEVERITIES, Accepted
from vllm_ci.suites.known.catalogue import Catalogue


@dataclass(frozen=True, kw_only=True)
class CommonCause:
    """One reason for several findings, which reports show once.

    Attributes:
        id: Stable id.
        title: What is wrong, in one line.
        rule: What is broken and where it is written.
    """

    id: str
    title: str
    rule: str = ""


INVALID_REQUESTS = CommonCause(
    id="server-error:invalid-requests",
    title="invalid requests are answered 5xx instead of 4xx",
    rule="RFC 9110, section 15.5: a mistake of the client is a status 4xx",
)
ERRORS_SHOW_CODE = CommonCause(
    id="errors-show-code",
    title="error messages show code or files of the server",
    rule="CWE-209: error messages contain no sensitive information",
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A weakness that an attacker could use.

    Attributes:
        id: Stable id: kind and place (``open-route:POST /invocations``).
        severity: One of ``low``, ``medium``, ``high``, ``critical``.
        message: What was found and why it matters, in one line.
        known: What is known of it in the server's version, in one line; empty if nothing is.
        suggestion: What to do about a known finding.
        advisories: CVE or GHSA ids, or links, of a known finding.
        cause: The reason that it shares with others.
        rule: What is broken and where it is written; empty if the cause says it, or the message.
    """

    id: str
    severity: str
    message: str
    known: str = ""
    suggestion: str = ""
    advisories: tuple[str, ...] = ()
    cause: CommonCause | None = None
    rule: str = ""

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"not a severity: {self.severity!r}")

    def __str__(self) -> str:
        return f"[{self.severity}] {self.id}: {self.text}"

    @property
    def text(self) -> str:
        """The message, with what is known of the finding."""
        return f"{self.message} ({self.known})" if self.known else self.message

    @property
    def properties(self) -> dict[str, object]:
        """For the report; what is known of the finding only where something is."""
        known: dict[str, object] = {"known": self.known, "suggestion": self.suggestion, "advisories": list(self.advisories)}
        known["rule"] = self.rule or (self.cause.rule if self.cause else "")
        known["cause"] = {"id": self.cause.id, "title": self.cause.title} if self.cause else {}
        found = {name: value for name, value in known.items() if value}
        return {"id": self.id, "severity": self.severity, "message": self.text, **found}


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Findings, sorted by consequence.

    Attributes:
        found: All findings.
        failing: Findings that fail the case.
        accepted: Findings that the user accepts, with a reason, and not expired.
        expired: Findings whose acceptance has expired; they are also in ``failing``.
        minor: Findings below the severity that fails.
    """

    found: tuple[Finding, ...]
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
        known: Findings that are known of versions of an engine.
        version: Version that the server reports; empty if it reports none.
    """

    accepted: Sequence[Accepted] = ()
    fail_on: str = "medium"
    today: dt.date
    known: Catalogue = field(default_factory=Catalogue)
    version: str = ""

    def judge(self, findings: Iterable[Finding]) -> Judgement:
        """Sort findings; findings of any severity can be accepted by their id, up to and including the last day."""
        found = tuple(self._with_what_is_known(finding) for finding in findings)
        failing, accepted, expired, minor = [], [], [], []
        for finding in found:
            entries = self._entries(finding)
            if any(self.today <= entry.until for entry in entries):
                accepted.append(finding)
            elif SEVERITIES.index(finding.severity) < SEVERITIES.index(self.fail_on):
                minor.append(finding)
            else:
                failing.append(finding)
                if entries:
                    expired.append(finding)
        return Judgement(
            found=found, failing=tuple(failing), accepted=tuple(accepted), expired=tuple(expired), minor=tuple(minor)
        )

    def _with_what_is_known(self, finding: Finding) -> Finding:
        known = self.known.findings.get(finding.id)
        about = self.known.about(finding.id, self.version)
        if known is None or not about:
            return finding
        return replace(finding, known=about, suggestion=known.suggestion, advisories=known.advisories)

    def _entries(self, finding: Finding) -> list[Accepted]:
        """Entries that are about a finding, expired or not."""
        engine = self.known.engine(finding.id, finding.severity, self.version)
        return [entry for entry in self.accepted if entry.covers(finding.id, finding.severity, engine)]
