"""Whether a step went well: conditions on what was measured of the new revision, and of the old one beside it. Pure.

Four outcomes. No data is never success: it is ``inconclusive``, and a person decides. A target that cannot be asked gives
``error``, with a limit of its own. Failing measurements end a step early; success is known only at its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from vllm_ci.deploy.condition import Condition, NoData
from vllm_ci.deploy.target import Sample


class Outcome(Enum):
    """Of an analysis."""

    SUCCESSFUL = "successful"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What is required of a step.

    Attributes:
        conditions: All must hold.
        interval_s: Length of one measurement, in seconds.
        min_requests: Measurements are put together until the new revision answered so many requests; with fewer in the whole
            step it is inconclusive.
        failures: Consecutive failing measurements that fail the step.
        errors: Consecutive measurements that could not be made and end the step.
    """

    conditions: tuple[Condition, ...] = ()
    interval_s: float = 10.0
    min_requests: int = 20
    failures: int = 1
    errors: int = 4


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One look at the target.

    Attributes:
        sample: Of the new revision; ``None`` when the target said nothing about it.
        baseline: Of the revision that it is compared with.
        error: Why it could not be made; empty when it was.
    """

    sample: Sample | None = None
    baseline: Sample | None = None
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What follows from the measurements.

    Attributes:
        outcome: ``None`` while it is not known.
        reasons: Why: what failed, or is missing; for a success, what was found.
    """

    outcome: Outcome | None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Measurements that were put together."""

    sample: Sample = field(default_factory=Sample)
    baseline: Sample | None = None

    def having(self, other: Measurement | _Group) -> _Group:
        """The same and what came after it."""
        known = [each for each in (self.baseline, other.baseline) if each]
        return _Group(sample=total((self.sample, other.sample or Sample())), baseline=total(known) if known else None)


_Found = Sequence[tuple[list[str], list[str], list[str]]]


def judge(analysis: Analysis, measurements: Sequence[Measurement], *, ended: bool) -> Judgement:
    """The outcome of a step so far.

    Args:
        analysis: What is required.
        measurements: In order; those of one step.
        ended: The step's time is over.
    """
    if errors := _trailing_errors(measurements):
        if len(errors) >= analysis.errors or ended:
            return Judgement(outcome=Outcome.ERROR, reasons=(f"{len(errors)} times in a row: {errors[-1]}",))
        return Judgement(outcome=None, reasons=(errors[-1],))
    groups, rest = _grouped(analysis, measurements)
    found = [_held(analysis.conditions, group) for group in groups]
    if ended and groups and not found[-1][0] and rest != _Group():
        # What came last is too little for a group of its own, and is judged with the one before.
        found.append(_held(analysis.conditions, groups[-1].having(rest)))
    if _failing(found) >= analysis.failures:
        return Judgement(outcome=Outcome.FAILED, reasons=tuple(found[-1][0]))
    if not ended:
        return Judgement(outcome=None)
    return _at_the_end(analysis, measurements, found)


def _at_the_end(analysis: Analysis, measurements: Sequence[Measurement], found: _Found) -> Judgement:
    if not found:
        seen = sum(each.sample.requests for each in measurements if each.sample)
        reason = f"{seen} requests, and {analysis.min_requests} are needed to tell"
        return Judgement(outcome=Outcome.INCONCLUSIVE, reasons=(reason,))
    failed, missing, held = found[-1]
    if failed or missing:
        return Judgement(outcome=Outcome.INCONCLUSIVE, reasons=(*failed, *missing))
    if not held:
        return Judgement(outcome=Outcome.INCONCLUSIVE, reasons=("no condition to judge by",))
    return Judgement(outcome=Outcome.SUCCESSFUL, reasons=tuple(held))


def _trailing_errors(measurements: Sequence[Measurement]) -> list[str]:
    errors: list[str] = []
    for each in reversed(measurements):
        if not each.error:
            break
        errors.append(each.error)
    return errors[::-1]


def _failing(found: _Found) -> int:
    """How many of the last ones failed in a row."""
    count = 0
    for failed, _, _ in reversed(found):
        if not failed:
            break
        count += 1
    return count


def _grouped(analysis: Analysis, measurements: Iterable[Measurement]) -> tuple[list[_Group], _Group]:
    """Measurements put together until each group has enough requests; and what is left over."""
    groups: list[_Group] = []
    rest = _Group()
    for each in measurements:
        if each.error:
            continue
        rest = rest.having(each)
        if rest.sample.requests and rest.sample.requests >= analysis.min_requests:
            groups.append(rest)
            rest = _Group()
    return groups, rest


def _held(conditions: Iterable[Condition], group: _Group) -> tuple[list[str], list[str], list[str]]:
    """What failed, what is not known, what holds."""
    failed: list[str] = []
    missing: list[str] = []
    held: list[str] = []
    for condition in conditions:
        try:
            holds, shown = condition.holds(group.sample, group.baseline)
        except NoData as error:
            missing.append(str(error))
            continue
        (held if holds else failed).append(shown)
    return failed, missing, held


def total(samples: Iterable[Sample]) -> Sample:
    """Samples of consecutive windows put together.

    Requests and errors add up. Quantiles are averaged, weighted by requests: an approximation, the same for both sides of a
    comparison. Of other metrics the last value counts.
    """
    parts = list(samples)
    return Sample(
        requests=sum(each.requests for each in parts),
        errors=sum(each.errors for each in parts),
        latencies_ms=_averaged([(each.requests, each.latencies_ms) for each in parts]),
        ttft_ms=_averaged([(each.requests, each.ttft_ms) for each in parts]),
        values={name: number for each in parts for name, number in each.values.items()},
    )


def _averaged(parts: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    names = sorted({name for _, quantiles in parts for name in quantiles})
    found: dict[str, float] = {}
    for name in names:
        known = [(count, quantiles[name]) for count, quantiles in parts if count and name in quantiles]
        if known:
            found[name] = sum(count * number for count, number in known) / sum(count for count, _ in known)
    return found
