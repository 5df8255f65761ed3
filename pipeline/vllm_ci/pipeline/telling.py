"""What a step of the pipeline tells: that it began and ended, and why its program failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vllm_ci.domain.events import Emit, Finished, Started
from vllm_ci.domain.startup_cause import startup_cause
from vllm_ci.stages import reading


@contextmanager
def step(emit: Emit, step: str, detail: str) -> Iterator[Callable[[str], None]]:
    """Tell of a step; the caller says what came of it."""
    emit(Started(step=step, detail=detail))
    begun = time.monotonic()
    said: list[str] = []
    yield said.append
    emit(Finished(step=step, seconds=time.monotonic() - begun, detail=" ".join(said)))


def told(log: str) -> dict[str, str]:
    """What a command of this tool said when it broke, as its error has it; the end of its log where it said nothing."""
    _, found, said = f"\n{log}".rpartition("\nvllm-ci: ")
    if not found:
        cause = startup_cause(log)
        return {
            "message": cause.line,
            "why": cause.explanation or reading.tail(log),
            "remedy": cause.change or "vllm-ci doctor",
        }
    message, _, rest = said.partition("\n  why: ")
    why, _, remedy = rest.partition("\n  do:  ")
    if not rest:
        message, _, remedy = said.partition("\n  do:  ")
    return {"message": message.strip(), "why": why.strip(), "remedy": remedy.strip()}
