"""Progress events of a pipeline."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vllm_ci.domain.report import Verdict


@dataclass(frozen=True, kw_only=True)
class Started:
    """A step started.

    Attributes:
        step: ``build``, ``model``, ``server`` or the name of a stage.
        detail: What the step works on.
    """

    step: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A running step made progress.

    Attributes:
        step: As in its :class:`Started`.
        detail: The progress (``57 of 140 cases, about 40 s left``).
    """

    step: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A step ended.

    Attributes:
        step: As in its :class:`Started`.
        seconds: Wall time.
        detail: Its result.
        verdict: Verdict of a stage; ``None`` for other steps.
    """

    step: str
    seconds: float
    detail: str = ""
    verdict: Verdict | None = None


Event = Started | Progress | Finished
Emit = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Discard an event."""


@contextmanager
def step(emit: Emit, name: str, detail: str = "") -> Iterator[Callable[[str], None]]:
    """Emit start and end of a step that takes as long as the context; the caller adds the result.

    A step that fails emits no end: its error is the result.
    """
    emit(Started(step=name, detail=detail))
    begun = time.monotonic()
    said: list[str] = []
    yield said.append
    emit(Finished(step=name, seconds=time.monotonic() - begun, detail=" ".join(said)))
