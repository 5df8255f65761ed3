"""How long the steps of a run usually take: medians over the newest reports in a folder of runs. Only for a display."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vllm_ci.domain.plain_json import is_number
from vllm_ci.domain.report import Verdict

_NEWEST = 5
_LARGEST_BYTES = 8 << 20


def durations(folder: Path, *, engine: str, of_commit: bool) -> dict[str, float]:
    """Median seconds of each step that ended, by its name; empty if there are no runs.

    Args:
        folder: Folder with a folder for each run. What cannot be read there is left out.
        engine: Only runs with this engine.
        of_commit: Only runs of a commit, or only those of a server that was given by its URL.
    """
    found: dict[str, list[float]] = {}
    for report in _newest(folder):
        if report.get("engine") == engine and (report.get("commit") is not None) is of_commit:
            for step, seconds in _ended(report):
                found.setdefault(step, []).append(seconds)
    return {step: statistics.median(values) for step, values in found.items()}


def _newest(folder: Path) -> Iterator[Mapping[str, Any]]:
    """The newest reports, by the names of their folders, which begin with the time."""
    runs = sorted((file for file in folder.glob("*/report.json") if not file.parent.is_symlink()), reverse=True)
    for file in runs[:_NEWEST]:
        try:
            report = json.loads(file.read_bytes()) if file.stat().st_size <= _LARGEST_BYTES else None
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(report, dict):
            yield report


def _ended(report: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Steps that came to their end, with their seconds: one that broke off says nothing about the next time."""
    problem, stages, timings = (report.get(name) for name in ("problem", "stages", "timings"))
    rows = [each for each in stages if isinstance(each, dict)] if isinstance(stages, list) else []
    broken = {row.get("name") for row in rows if row.get("verdict") == Verdict.ERRORED.value}
    broken |= {problem.get("step")} if isinstance(problem, dict) else set()
    for step, seconds in timings.items() if isinstance(timings, dict) else ():
        if step not in broken and is_number(seconds) and seconds >= 0:
            yield step, float(seconds)
