"""What a dashboard shows: runs of commits by stage, releases of channels, trends and flaky cases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import VllmCiError
from vllm_ci.domain.plain_json import is_number
from vllm_ci.domain.report import CaseStatus, Report, Verdict
from vllm_ci.performance.history import Series
from vllm_ci.release.record import Record
from vllm_ci.report import files

_BAD = (CaseStatus.FAILED, CaseStatus.ERRORED)
LATENCIES = ("ttft_ms_p50", "tpot_ms_p50", "e2e_ms_p50")
Key = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is kept of the report of a run.

    Attributes:
        name: Of its folder.
        started_at: ISO 8601.
        commit: The tested commit, if one is known.
        digest: Of the tested image; empty if there is none.
        verdict: Of the run.
        stages: Verdict and the numbers of failed and of all cases, by stage.
        seconds: Wall time.
        figures: Figures to plot by name: size of the image, medians of latencies.
        passed: Stage and name of the cases that passed.
        bad: Stage and name of the cases that failed or errored.
        folder: Where its files are.
    """

    name: str
    started_at: str
    commit: Commit | None
    digest: str
    verdict: Verdict
    stages: Mapping[str, tuple[Verdict, int, int]]
    seconds: float
    figures: Mapping[str, float]
    passed: frozenset[Key]
    bad: frozenset[Key]
    folder: Path

    @property
    def subject(self) -> str:
        """What was tested, for runs to be compared: the image, or the clean commit; empty if neither is known."""
        return self.digest or (self.commit.sha if self.commit and not self.commit.dirty else "")


@dataclass(frozen=True, kw_only=True)
class Flaky:
    """A case with different results in runs of one image or commit.

    Attributes:
        stage: Its stage.
        name: Its name.
        failed: Number of runs, of those that are compared, in which it failed.
        runs: Number of runs in which it passed or failed, over all subjects where it did both.
        last: Start of the newest run in which it failed.
    """

    stage: str
    name: str
    failed: int
    runs: int
    last: str


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """Everything that the page shows.

    Attributes:
        title: Name of the project.
        runs: Newest first.
        records: Of the ledger, newest first.
        heads: What each channel points to.
        series: Stored measurements.
        notes: What could not be read, or is missing.
    """

    title: str
    runs: Sequence[Run] = ()
    records: Sequence[Record] = ()
    heads: Mapping[str, Record | None] = field(default_factory=dict)
    series: Sequence[Series] = ()
    notes: Sequence[str] = ()

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of all stages, in the order of the runs."""
        return tuple(dict.fromkeys(name for run in self.runs for name in run.stages))

    def channels_of(self, run: Run) -> tuple[str, ...]:
        """Channels that point to what a run tested."""
        return tuple(name for name, head in self.heads.items() if head and run.digest and head.release.digest == run.digest)


def read(folder: Path, most: int) -> tuple[list[Run], list[str]]:
    """The newest runs in a folder of reports, newest first, and why other reports are left out."""
    names: dict[str, str] = {}
    found, left_out = [], []
    for path in sorted(folder.glob("*/report.json"), reverse=True):
        if path.parent.is_symlink():
            continue
        try:
            path.parent.name.encode()  # its address; a name that is no UTF-8 has none
            found.append(_run(path, files.read(path).report, names))
        except (VllmCiError, OSError, UnicodeEncodeError) as error:
            left_out.append(f"{path.parent.name}: {str(error).splitlines()[0][:200]}")
    found.sort(key=lambda run: (run.started_at, run.name), reverse=True)
    if len(found) > most:
        left_out.append(f"{len(found) - most} older runs")
    return found[:most], left_out


def _run(path: Path, report: Report, names: dict[str, str]) -> Run:
    def keys(statuses: Iterable[CaseStatus]) -> frozenset[Key]:
        wanted = tuple(statuses)
        # One string for each name, however many runs have it.
        return frozenset(
            (names.setdefault(stage.name, stage.name), names.setdefault(case.name, case.name))
            for stage in report.stages
            for case in stage.cases
            if case.status in wanted
        )

    return Run(
        name=path.parent.name,
        started_at=report.started_at[:19],
        commit=report.commit,
        digest=report.image.digest if report.image else "",
        verdict=report.verdict,
        stages={stage.name: (stage.verdict, sum(map(stage.count, _BAD)), len(stage.cases)) for stage in report.stages},
        seconds=report.seconds,
        figures=dict(_figures(report)),
        passed=keys([CaseStatus.PASSED]),
        bad=keys(_BAD),
        folder=path.parent,
    )


def _figures(report: Report) -> Iterable[tuple[str, float]]:
    if report.layers:
        yield "image_bytes", float(sum({layer.digest: layer.size_bytes for layer in report.layers}.values()))
    for stage in report.stages:
        for name in LATENCIES:
            value = stage.metrics.get(name)
            if stage.name == "streaming" and is_number(value) and value > 0:
                yield name, float(value)


def flaky(runs: Sequence[Run]) -> list[Flaky]:
    """Cases that both passed and failed in runs of one image or commit; the most often failed ones first."""
    subjects: dict[str, list[Run]] = {}
    for run in runs:
        if run.subject:
            subjects.setdefault(run.subject, []).append(run)
    seen: dict[Key, list[tuple[int, int, str]]] = {}
    for several in subjects.values():
        bad = frozenset().union(*(run.bad for run in several))
        passed = frozenset().union(*(run.passed for run in several))
        for key in bad & passed:
            failing = [run for run in several if key in run.bad]
            count = len(failing) + sum(key in run.passed for run in several)
            seen.setdefault(key, []).append((len(failing), count, max(run.started_at for run in failing)))
    found = [
        Flaky(
            stage=stage,
            name=name,
            failed=sum(failed for failed, _, _ in rows),
            runs=sum(count for _, count, _ in rows),
            last=max(last for _, _, last in rows),
        )
        for (stage, name), rows in seen.items()
    ]
    return sorted(found, key=lambda each: (-each.failed / each.runs, each.stage, each.name))
