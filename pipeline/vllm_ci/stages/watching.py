"""How far the programs of a stage are, read from what they write while they run."""

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
    """What the lines of ``cases.jsonl`` add up to.

    Attributes:
        cases: How many there are; 0 when unknown.
        estimate_s: How long all will take; 0 when unknown.
        ended: How many have ended.
        bad: How many of those neither passed nor were skipped.
        running: The case that runs now.
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
        bad = f", {self.bad} not well" if self.bad else ""
        return f"{self.ended}{of} cases{bad}; {self.running}".rstrip("; ")


async def watch(engine: Engine, programs: Iterable[str], step: str, emit: Emit) -> None:
    """Tell how far a step is, until cancelled; nothing where the engine cannot tell.

    Args:
        engine: Runs the programs.
        programs: Their names, in the order in which they run.
        step: Name of the step.
        emit: Is told.
    """
    if not isinstance(engine, TellsSoFar):
        return
    said = ""
    while True:
        await anyio.sleep(_INTERVAL_S)
        tally = CaseCounts()
        for name in programs:
            for entry in await _lines(engine, name):
                tally.add(entry)
        if str(tally) != said:
            said = str(tally)
            emit(Progress(step=step, detail=said))


async def _lines(engine: TellsSoFar, program: str) -> list[Mapping[str, Any]]:
    output = engine.so_far(program)
    try:
        lines = (await output.read("cases.jsonl")).decode(errors="replace").splitlines() if output is not None else []
    except OSError:  # it has not begun to write
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:  # the line that is being written
            continue
    return [entry for entry in found if isinstance(entry, dict)]
