"""Causes of a verdict: cases that fail for one reason are one cause, whatever their number.

A case belongs to the cause that its suite recorded (property ``cause``); to one cause for each security finding that fails it
(property ``findings``); otherwise to the cause of all cases with a message of the same shape
(:mod:`vllm_ci.domain.message_shape`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vllm_ci.domain.claims import Bad, Claim, claims, exchange_of
from vllm_ci.domain.message_shape import common, shape_of
from vllm_ci.domain.plain import one_line
from vllm_ci.domain.report import Case, CaseStatus, Report, StageResult, Verdict
from vllm_ci.domain.stage import SEVERITIES

_STATUSES = (CaseStatus.FAILED, CaseStatus.ERRORED, CaseStatus.INCONCLUSIVE)


@dataclass(frozen=True, kw_only=True)
class AffectedCase:
    """A case that a cause made fail.

    Attributes:
        stage: Name of its stage.
        name: Its name; empty for a stage that failed as a whole.
        status: How it ended.
    """

    stage: str
    name: str
    status: CaseStatus

    @property
    def label(self) -> str:
        """The name for a list: with the stage where it does not begin with it."""
        stage, name = one_line(self.stage, 200), one_line(self.name, 1000)
        if not name:
            return f"{stage} (the whole stage)"
        return name if name.startswith(f"{stage}/") else f"{stage}: {name}"


@dataclass(frozen=True, kw_only=True)
class Cause:
    """One reason why cases did not pass.

    Attributes:
        id: Stable from run to run: what the suite recorded, the id of a finding, or words of the message with a hash.
        title: What is wrong, in one line.
        status: The worst status of its cases.
        cases: Its cases, failed ones first, by stage and name.
        severity: ``low``, ``medium``, ``high`` or ``critical``; empty if unknown.
        rule: What is broken and where it is written; empty if unknown.
        request: Beginning of the request of the first case that recorded one.
        response: Beginning of the response to it.
    """

    id: str
    title: str
    status: CaseStatus
    cases: tuple[AffectedCase, ...]
    severity: str = ""
    rule: str = ""
    request: str = ""
    response: str = ""

    @property
    def count(self) -> int:
        """Number of cases."""
        return len(self.cases)


@dataclass(frozen=True, kw_only=True)
class SkipReason:
    """Why cases were skipped.

    Attributes:
        reason: The reason that they gave.
        count: Number of cases.
    """

    reason: str
    count: int


def causes_of(found: Iterable[StageResult | Case]) -> tuple[Cause, ...]:
    """Causes of results of stages, or of cases: failed, errored, inconclusive; in that order by severity and number of cases.

    Every case that failed, errored or is inconclusive belongs to exactly one cause, except that a case with several failing
    findings belongs to the cause of each. The order of ``found`` makes no difference.
    """
    bad = sorted((each for one in found for each in _bad(one)), key=lambda each: _place(each.stage, each.case))
    groups: dict[str, list[Claim]] = {}
    for claim in claims(bad):
        groups.setdefault(claim.id, []).append(claim)
    return tuple(sorted((_cause(group) for group in groups.values()), key=_order))


def causes_of_report(report: Report) -> tuple[Cause, ...]:
    """Causes of a report, without those stages that its problem explains."""
    return causes_of(stage for stage in report.stages if not report.is_explained(stage))


def skips_of(stages: Iterable[StageResult]) -> tuple[SkipReason, ...]:
    """Reasons of skipped cases, the most frequent first; figures in them that differ from case to case are ``…``."""
    skipped = [case for stage in stages for case in stage.cases if case.status is CaseStatus.SKIPPED]
    shapes = [shape_of(one_line(case.message, 300) or "no reason was given") for case in skipped]
    groups: dict[str, list[int]] = {}
    for place, shape in enumerate(shapes):
        groups.setdefault(shape.text, []).append(place)
    found = [SkipReason(reason=common([shapes[place] for place in group]), count=len(group)) for group in groups.values()]
    return tuple(sorted(found, key=lambda skip: (-skip.count, skip.reason)))


def headline(causes: Sequence[Cause], total: int) -> str:
    """``108 of 356 cases failed, 35 errored, for 4 reasons``; empty without causes.

    Args:
        causes: Causes of a report.
        total: Number of all its cases.
    """
    statuses = {(case.stage, case.name): case.status for cause in causes for case in cause.cases if case.name}
    counts = Counter(statuses.values())
    parts = [f"{counts[status]} {status.value}" for status in _STATUSES if counts[status]]
    if not parts:
        return ""
    first, *others = parts
    count, _, word = first.partition(" ")
    verb = "are " if word == CaseStatus.INCONCLUSIVE.value else ""
    said = ", ".join([f"{count} of {total} case{'' if total == 1 else 's'} {verb}{word}", *others])
    reasons = f"for {len(causes)} reason{'s' if len(causes) > 1 else ''}"
    if max(len(statuses), len(causes)) == 1:
        return said
    return f"{said}, {reasons}" if others else f"{said} {reasons}"


def _bad(found: StageResult | Case) -> list[Bad]:
    """Cases that did not pass; the stage itself if its verdict is not explained by any of them."""
    if isinstance(found, Case):
        return [Bad(stage="", case=found)] if found.status in _STATUSES else []
    cases = [Bad(stage=found.name, case=case) for case in found.cases if case.status in _STATUSES]
    if cases or found.verdict is Verdict.PASSED:
        return cases
    return [Bad(stage=found.name, case=Case(name="", status=CaseStatus(found.verdict.value), message=found.message))]


def _place(stage: str, case: Case) -> tuple[int, str, str, str, str]:
    return _STATUSES.index(case.status), stage, case.name, case.message, case.details


def _order(cause: Cause) -> tuple[int, int, int, str]:
    return _STATUSES.index(cause.status), -_severity(cause.severity), -cause.count, cause.id


def _severity(name: str) -> int:
    """Rank of a severity; a cause of unknown severity is shown among those of medium severity."""
    return SEVERITIES.index(name if name in SEVERITIES else "medium")


def _cause(group: Sequence[Claim]) -> Cause:
    """The cause that these claims are about; the first of them is of the first case in the order of :func:`_place`."""
    exchange = next((each for claim in group if (each := exchange_of(claim.bad.case))), {})
    return Cause(
        id=group[0].id,
        title=_title(group),
        status=group[0].bad.case.status,
        cases=tuple(AffectedCase(stage=each.bad.stage, name=each.bad.case.name, status=each.bad.case.status) for each in group),
        severity=max((claim.severity for claim in group), key=lambda name: (bool(name), _severity(name))),
        rule=next((claim.rule for claim in group if claim.rule), ""),
        request=exchange.get("request", ""),
        response=exchange.get("response", ""),
    )


def _title(group: Sequence[Claim]) -> str:
    """What the claims have in common; the most frequent title if they differ in more than figures."""
    shapes = [claim.shape for claim in group if not claim.nested] or [claim.shape for claim in group]
    counted = Counter(shape.text for shape in shapes)
    most = min(counted, key=lambda text: (-counted[text], text))
    return one_line(common([shape for shape in shapes if shape.text == most]), 300)
