"""Stages: which programs judge a server or an image, and how their reports become a result."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.stage import StageSpec
from vllm_ci.stages import installed, integration, security, streaming, unit
from vllm_ci.stages.command import CommandStage
from vllm_ci.stages.own_tests import OwnTests
from vllm_ci.stages.stage import Stage, StageContext

# In the order in which they are run: what is cheap and tells most comes first.
STAGES: dict[str, Stage] = {stage.name: stage for stage in (unit.STAGE, integration.STAGE, streaming.STAGE, security.STAGE)}

__all__ = ["STAGES", "Stage", "StageContext", "needs_server", "stage_of", "unknown", "wants_pytest_inside"]


def stage_of(spec: StageSpec) -> Stage:
    """The stage that a spec describes: one of ours by its name, or one of the user's own.

    Raises:
        UsageError: There is no such stage.
        ConfigError: It is an installed one that cannot be used.
    """
    if spec.name in STAGES:
        return STAGES[spec.name]
    own = spec.own
    if own is None:
        raise unknown(spec.name, STAGES)
    if own.use:
        return installed.load(own.use)
    return CommandStage(name=spec.name, own=own) if own.run else OwnTests(name=spec.name, own=own)


def needs_server(spec: StageSpec) -> bool:
    """Whether the stage runs against the server; otherwise it needs only the image."""
    return stage_of(spec).needs_server


def wants_pytest_inside(spec: StageSpec) -> bool:
    """Whether the stage runs pytest inside the image, for which it has to be laid out."""
    return spec.name == unit.STAGE.name or (spec.own is not None and spec.own.inside and bool(spec.paths))


def unknown(name: str, known: Iterable[str]) -> UsageError:
    """The error of a name that no stage has."""
    names = list(dict.fromkeys(known))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    remedy = f"did you mean {near[0]}?" if near else f"choose from {', '.join(names)}"
    return UsageError(f"unknown stage: {name}", remedy=remedy)
