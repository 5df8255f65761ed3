"""Report the start and end of pipeline steps, and why a program failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vllm_ci.domain.events import Emit, Finished, Started
from vllm_ci.domain.startup_cause import startup_cause
from vllm_ci.stages import reading


@contextmanager
def step(emit: Emit, step: str, detail: str) -> Iterator[Callable[[str], None]]:
    """Emit start and end of a step; the caller adds the result."""
    emit(Started(step=step, detail=detail))
    begun = time.monotonic()
    details: list[str] = []
    yield details.append
    emit(Finished(step=step, seconds=time.monotonic() - begun, detail=" ".join(details)))


def failure(log: str) -> dict[str, str]:
    """The error message of a failed vllm-ci command, by parts; without one, the cause from its log."""
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
