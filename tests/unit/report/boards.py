"""Dashboards for tests of the page: of any size, and with texts that try to act."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from unit.report.pages import HOSTILE
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.report import Verdict
from vllm_ci.performance.history import Change, Series
from vllm_ci.release.record import Action, Record, Release
from vllm_ci.report.dashboard import Dashboard, Run

BEGUN = datetime(2026, 9, 1, 8, tzinfo=UTC)
_STAGES = ("unit", "integration", "streaming", "security")


def board(count: int) -> Dashboard:
    """``count`` runs, two for each commit, with everything that the page can show; nothing at all for 0."""
    runs = [_run(number) for number in reversed(range(count))]
    records = [_record(number) for number in reversed(range(min(count, 60)))]
    heads = {name: next((each for each in records if each.channel == name), None) for name in ("staging", "production")}
    return Dashboard(
        title="serving",
        runs=runs,
        records=records,
        heads=heads if count else {},
        series=[_series()] if count > 1 else [],
        notes=["20260901-080000-broken: is not a report"] if count else [],
    )


def _at(number: int) -> str:
    return (BEGUN + timedelta(hours=5 * number)).isoformat()[:19]


def _commit(number: int) -> str:
    return f"{number // 2:07x}".ljust(40, "c")


def _run(number: int) -> Run:
    bad = number % 7 == 3
    keys = frozenset(("streaming", f"streaming/test_many.py::test_stream_{case}_comes_whole[chat]") for case in range(20))
    failing = frozenset([min(keys)]) if bad else frozenset()
    stages = {
        name: (Verdict.FAILED, 1, 21) if bad and name == "streaming" else (Verdict.PASSED, 0, 21)
        for name in _STAGES
        if not (name == "security" and number % 5 == 0)
    }
    if number % 50 == 10:
        stages["integration"] = (Verdict.ERRORED, 21, 21)
    return Run(
        name=f"{_at(number)[:10]}-{number}",
        started_at=_at(number),
        commit=Commit(sha=_commit(number), ref="refs/heads/main", source="https://github.com/example/serving.git"),
        digest="sha256:" + f"{number // 2:04x}" * 16,
        verdict=Verdict.worst([verdict for verdict, _, _ in stages.values()]),
        stages=stages,
        seconds=60.0 + number % 13,
        figures={"image_bytes": 5e8 + 1e6 * number, "ttft_ms_p50": 10.0 + number % 4, "tpot_ms_p50": 2.0, "e2e_ms_p50": 90.0},
        passed=keys - failing,
        bad=failing,
        folder=Path("/nowhere"),
    )


def _record(number: int) -> Record:
    action: Action = "rollback" if number % 11 == 7 else "promote" if number % 3 == 2 else "publish"
    digest = "sha256:" + f"{number // 2:04x}" * 16
    return Record(
        number=number + 1,
        at=_at(number) + "+00:00",
        action=action,
        channel="staging" if action == "publish" else "production",
        release=Release(commit=_commit(number), digest=digest, repository="registry.example.com/serving", tag="t"),
        by="Rita Release <rita@example.com>",
        reason="latency doubled" if action == "rollback" else "",
    )


def _series() -> Series:
    values = tuple(100.0 + each % 3 if each < 12 else 130.0 + each % 3 for each in range(24))
    times = tuple(_at(each) for each in range(24))
    changes = (Change(at=times[12], before=101.0, after=131.0, p=1e-6),)
    group = {"hardware": "h100", "model": "chat", "workload": "chat"}
    return Series(group=group, metric="ttft_ms_p50", times=times, values=values, changes=changes)


def hostile() -> Dashboard:
    """Every text that comes from outside tries to act."""
    made = board(4)
    runs = [
        Run(
            name=text,
            started_at=text,
            commit=Commit(sha="a" * 40, ref=text, source=HOSTILE[5], pull_request=text),
            digest=text,
            verdict=Verdict.FAILED,
            stages={text: (Verdict.FAILED, 1, 1)},
            seconds=1.0,
            figures={"image_bytes": 1.0},
            passed=frozenset({(text, text)}) if number % 2 else frozenset(),
            bad=frozenset() if number % 2 else frozenset({(text, text)}),
            folder=Path("/nowhere"),
        )
        for number, text in enumerate(each for text in HOSTILE for each in (text, text))
    ]
    releases = [Release(commit=text, digest=text, repository=text, tag=text) for text in HOSTILE]
    records = [
        Record(number=number, at=text, action="publish", channel=text, release=release, by=text, reason=text)
        for number, (text, release) in enumerate(zip(HOSTILE, releases, strict=True))
    ]
    group = {text: text for text in HOSTILE}
    series = [Series(group=group, metric=text, times=(text, text), values=(1.0, 2.0), changes=()) for text in HOSTILE]
    heads = {each.channel: each for each in records}
    return Dashboard(title=HOSTILE[0], runs=[*runs, *made.runs], records=records, heads=heads, series=series, notes=HOSTILE)
