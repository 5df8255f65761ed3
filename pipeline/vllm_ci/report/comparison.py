"""Compares the runs of two versions: cases by name, latencies with their doubt, images by size. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vllm_ci.domain.report import Case, CaseStatus, Report, Verdict
from vllm_ci.report.latency import Speed, speeds

_BAD = (CaseStatus.FAILED, CaseStatus.ERRORED)
Key = tuple[str, str]


class Change(enum.StrEnum):
    """What became of a case."""

    NEW = "new"
    FIXED = "fixed"
    STILL = "still failing"
    FLAKY = "flaky"
    GONE = "gone"
    SKIPPED = "no longer run"
    UNDECIDED = "undecided"


# A case that is gone may have been removed, or left out for time.
_UNCLEAR = (Change.FLAKY, Change.GONE, Change.SKIPPED, Change.UNDECIDED)


@dataclass(frozen=True, kw_only=True)
class ChangedCase:
    """A case that did not pass in all runs.

    Attributes:
        stage: Name of its stage.
        name: Its name; empty for a stage that failed as a whole.
        change: What became of it.
        message: What it says where it failed, in the newer runs if it failed there.
        failed: How many of the older and of the newer runs it failed in.
        runs: How many of the older and of the newer runs it is in.
    """

    stage: str
    name: str
    change: Change
    message: str
    failed: tuple[int, int]
    runs: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What differs between the older and the newer runs.

    Attributes:
        cases: Cases that did not pass in all runs, in the order of :class:`Change`.
        same: Number of cases that passed, or were skipped, in all runs.
        added: Number of cases that only the newer runs have, and that passed or were skipped.
        speed: Latencies of both; empty if the runs measured none.
        size_bytes: Size of the older and of the newer image; ``None`` where it is unknown.
        layers: Tiers whose layers differ.
        only_older: Stages that only the older runs have.
        only_newer: Stages that only the newer runs have.
        only_newer_bad: Those of them that did not pass: nothing says whether that is new.
        notes: What makes the comparison weaker.
    """

    cases: tuple[ChangedCase, ...]
    same: int
    added: int
    speed: tuple[Speed, ...]
    size_bytes: tuple[int | None, int | None]
    layers: tuple[str, ...]
    only_older: tuple[str, ...]
    only_newer: tuple[str, ...]
    only_newer_bad: tuple[str, ...]
    notes: tuple[str, ...]

    def of(self, change: Change) -> tuple[ChangedCase, ...]:
        """Cases with this change."""
        return tuple(case for case in self.cases if case.change is change)

    @property
    def verdict(self) -> Verdict:
        """``failed`` if something surely became worse, ``inconclusive`` if that cannot be said, otherwise ``passed``."""
        if self.of(Change.NEW) or any(each.decision == "slower" for each in self.speed):
            return Verdict.FAILED
        compared = bool(self.cases) or self.same or self.added
        weak = self.only_older or self.only_newer_bad or any(self.of(change) for change in _UNCLEAR)
        return Verdict.INCONCLUSIVE if weak or not compared else Verdict.PASSED


def compare(older: Sequence[Report], newer: Sequence[Report]) -> Comparison:
    """Compare runs; each side has at least one, and all runs of a side are of one image or server.

    Only stages that both sides have are compared.
    """
    stages = [{stage.name for report in side for stage in report.stages} for side in (older, newer)]
    shared = stages[0] & stages[1]
    before, after = (_results(side, shared) for side in (older, newer))
    # Tags are of the commit, and the repository is where it was built: only the digest is the image.
    digests = [report.image.digest if report.image else "" for report in (older[0], newer[0])]
    same_image = digests[0] == digests[1] != ""
    keys = list({**before, **after})
    found = [
        _changed(key, before.get(key, []), after.get(key, []), same_image=same_image, whole=before.get((key[0], ""), []))
        for key in keys
    ]
    order = list(Change)
    cases = sorted((each for each in found if each), key=lambda each: (order.index(each.change), each.stage, each.name))
    as_before = [key for key, each in zip(keys, found, strict=True) if each is None and key[1]]
    added = sum(key not in before for key in as_before)
    return Comparison(
        cases=tuple(cases),
        same=len(as_before) - added,
        added=added,
        speed=speeds(older, newer) if _one_machine(older, newer) else (),
        size_bytes=(_size(older[0]), _size(newer[0])),
        layers=_layers(older[0], newer[0]),
        only_older=tuple(sorted(stages[0] - shared)),
        only_newer=tuple(sorted(stages[1] - shared)),
        only_newer_bad=tuple(sorted(_bad_stages(newer) - shared)),
        notes=tuple(_notes(older, newer, same_image=same_image)),
    )


def _bad_stages(reports: Iterable[Report]) -> set[str]:
    return {stage.name for report in reports for stage in report.stages if stage.verdict is not Verdict.PASSED}


def _results(reports: Iterable[Report], stages: set[str]) -> dict[Key, list[Case]]:
    """Results of each case, one for each run that has it; a stage that failed without a case is a case without a name."""
    found: dict[Key, list[Case]] = {}
    for report in reports:
        for stage in report.stages:
            if stage.name not in stages:
                continue
            for case in stage.cases:
                found.setdefault((stage.name, case.name), []).append(case)
            explained = stage.verdict is Verdict.PASSED or any(case.status.value == stage.verdict.value for case in stage.cases)
            status = CaseStatus.PASSED if explained else CaseStatus(stage.verdict.value)
            whole = Case(name="", status=status, message="" if explained else stage.message)
            found.setdefault((stage.name, ""), []).append(whole)
    return found


def _changed(
    key: Key, before: Sequence[Case], after: Sequence[Case], *, same_image: bool, whole: Sequence[Case]
) -> ChangedCase | None:
    change = _change(before, after, same_image=same_image)
    if change is None:
        return None
    if change is Change.NEW and not before and _bad(whole) == len(whole) > 0:
        change = Change.UNDECIDED  # the older runs broke off before it, and might have failed it as well
    bad = [next((case for case in side if case.status is not CaseStatus.PASSED), None) for side in (after, before)]
    said = next((case.message for case in bad if case and case.message), "")
    return ChangedCase(
        stage=key[0],
        name=key[1],
        change=change,
        message=said,
        failed=(_bad(before), _bad(after)),
        runs=(len(before), len(after)),
    )


def _change(before: Sequence[Case], after: Sequence[Case], *, same_image: bool) -> Change | None:
    """What became of a case; ``None`` if it neither failed nor stopped to be run."""
    failed, fails = _bad(before), _bad(after)
    if not after:
        return Change.GONE
    if _is_mixed(before) or _is_mixed(after) or (same_image and _is_mixed([*before, *after])):
        return Change.FLAKY
    if fails:
        return Change.STILL if failed else Change.NEW
    statuses = {case.status for case in after}
    if CaseStatus.INCONCLUSIVE in statuses:
        return Change.UNDECIDED
    if CaseStatus.PASSED in statuses:
        return Change.FIXED if failed else None
    return Change.SKIPPED if before and any(case.status is not CaseStatus.SKIPPED for case in before) else None


def _bad(cases: Sequence[Case]) -> int:
    return sum(case.status in _BAD for case in cases)


def _is_mixed(cases: Sequence[Case]) -> bool:
    """Whether it both failed and passed; a run that skipped it, perhaps for time, says nothing about that."""
    return bool(_bad(cases)) and any(case.status is CaseStatus.PASSED for case in cases)


def _size(report: Report) -> int | None:
    return sum({layer.digest: layer.size_bytes for layer in report.layers}.values()) if report.layers else None


def _layers(older: Report, newer: Report) -> tuple[str, ...]:
    """Tiers with a layer that only one of the images has."""
    if not older.layers or not newer.layers:
        return ()
    digests = [{layer.digest for layer in report.layers} for report in (older, newer)]
    differ = digests[0] ^ digests[1]
    return tuple(dict.fromkeys(layer.tier for report in (newer, older) for layer in report.layers if layer.digest in differ))


def _one_machine(older: Sequence[Report], newer: Sequence[Report]) -> bool:
    machines = [_machine(report) for report in (*older, *newer)]
    return all(machine == machines[0] for machine in machines)


def _machine(report: Report) -> list[object]:
    return [report.engine, *(report.hardware.get(name) for name in ("cpu", "cores", "gpus")), report.server.get("model")]


def _notes(older: Sequence[Report], newer: Sequence[Report], *, same_image: bool) -> Iterable[str]:
    if same_image:
        yield "both are of the same image: cases that differ are flaky"
    if not _one_machine(older, newer):
        yield "the runs had different engines, machines or models: latencies are not compared"
    for name, side in (("older", older), ("newer", newer)):
        if any(report.problem is not None for report in side):
            yield f"a problem kept stages of the {name} runs from running"
        if any(report.double for report in side):
            yield f"the {name} runs are of a test double"
