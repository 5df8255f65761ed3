"""Progress of a stage, read from the output of its running programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio

from vllm_ci.domain.events import Emit, Progress
from vllm_ci.engine import Engine, TellsSoFar

_INTERVAL_S = 1.0


@dataclass(kw_only=True)
class CaseCounts:
    """Counts from the lines of ``cases.jsonl``.

    Attributes:
        cases: Number of cases; 0 if unknown.
        estimate_s: Estimated total time in seconds; 0 if unknown.
        ended: Number of finished cases.
        bad: Number of finished cases that neither passed nor were skipped.
        running: The case that is running.
    """

    cases: int = 0
    estimate_s: float = 0.0
    ended: int = 0
    bad: int = 0
    running: str = ""

    def add(self, entry: Mapping[str, Any]) -> None:
        """Count one line."""
        if "plan" in entry:
            self.cases, self.estimate_s = int(entry["plan"]["cases"]), float(entry["plan"]["estimate_s"])
        elif "case" in entry:
            self.ended += 1
            self.bad += entry["case"]["status"] not in ("passed", "skipped")
        else:
            self.running = str(entry.get("running", self.running))

    def __str__(self) -> str:
        if not self.ended:
            about = f", about {max(self.estimate_s, 1):.0f} s" if self.estimate_s else ""
            return f"{self.cases} cases{about}" if self.cases else ""
        of = f" of {self.cases}" if self.cases else ""
        bad = f", {self.bad} not passed" if self.bad else ""
        return f"{self.ended}{of} cases{bad}; {self.running}".rstrip("; ")


async def watch(engine: Engine, programs: Iterable[str], step: str, emit: Emit) -> None:
    """Report the progress of a step until cancelled, if the engine supports it.

    Args:
        engine: Runs the programs.
        programs: Names of the programs, in run order.
        step: Name of the step.
        emit: Called when the progress changes.
    """
    if not isinstance(engine, TellsSoFar):
        return
    last = ""
    while True:
        await anyio.sleep(_INTERVAL_S)
        tally = CaseCounts()
        for name in programs:
            for entry in await _lines(engine, name):
                tally.add(entry)
        if str(tally) != last:
            last = str(tally)
            emit(Progress(step=step, detail=last))


async def _lines(engine: TellsSoFar, program: str) -> list[Mapping[str, Any]]:
    output = engine.so_far(program)
    try:
        lines = (await output.read("cases.jsonl")).decode(errors="replace").split("\n") if output is not None else []
    except OSError:  # nothing written yet
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:  # an incomplete last line
            continue
    return [entry for entry in found if isinstance(entry, dict)]
