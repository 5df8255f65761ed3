"""What a pipeline tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vllm_ci.domain.report import Verdict


@dataclass(frozen=True, kw_only=True)
class Started:
    """A step began.

    Attributes:
        step: ``build``, ``model``, ``server`` or the name of a stage.
        detail: What it is about.
    """

    step: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A step that began and has not ended is this far.

    Attributes:
        step: As in its :class:`Started`.
        detail: How far (``57 of 140 cases, about 40 s left``).
    """

    step: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A step ended.

    Attributes:
        step: As in its :class:`Started`.
        seconds: Wall time.
        detail: What came of it.
        verdict: Of a stage; ``None`` for other steps.
    """

    step: str
    seconds: float
    detail: str = ""
    verdict: Verdict | None = None


Event = Started | Progress | Finished
Emit = Callable[[Event], None]
