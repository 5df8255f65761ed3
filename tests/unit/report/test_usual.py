"""How long steps usually take is read from earlier reports; nothing in their folder can end a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from unit.report.pages import report
from vllm_ci.domain.report import Problem, StageResult, Verdict
from vllm_ci.report import folder
from vllm_ci.report.usual import durations


def stored(parent: Path, *seconds: float) -> None:
    for number, each in enumerate(seconds):
        made = replace(report(3), timings={"server": each}, started_at=f"2026-11-2{number}T00:00:00+00:00")
        folder.write(parent, made, {})


def test_it_is_the_median_of_the_newest_runs_of_the_same_kind(tmp_path: Path) -> None:
    stored(tmp_path, 900.0, 20.0, 21.0, 22.0, 23.0, 300.0)
    assert durations(tmp_path, engine="host", of_commit=True) == {"server": 22.0}
    assert durations(tmp_path, engine="dagger", of_commit=True) == {}
    assert durations(tmp_path, engine="host", of_commit=False) == {}
    assert durations(tmp_path / "none", engine="host", of_commit=True) == {}


def test_steps_that_broke_off_do_not_count(tmp_path: Path) -> None:
    broken = StageResult(name="streaming", verdict=Verdict.ERRORED, seconds=1)
    made = replace(report(3), timings={"build": 3.0, "server": 1.0, "streaming": 1.0}, stages=(broken,))
    folder.write(tmp_path, replace(made, problem=Problem(step="server", summary="gone")), {})
    assert durations(tmp_path, engine="host", of_commit=True) == {"build": 3.0}


@pytest.mark.parametrize(
    "content",
    ["", "[]", "[" * 200_000, "null", '{"engine": "host", "commit": {}}', '{"timings": [1], "stages": {}, "problem": 3}']
    + [json.dumps({"engine": "host", "commit": {}, "timings": {"server": odd}}) for odd in (None, "x", -1, float("nan"), True)],
)
def test_what_cannot_be_read_is_left_out(tmp_path: Path, content: str) -> None:
    stored(tmp_path, 20.0)
    (tmp_path / "99999999-broken").mkdir()
    (tmp_path / "99999999-broken" / "report.json").write_text(content)
    assert durations(tmp_path, engine="host", of_commit=True) == {"server": 20.0}
