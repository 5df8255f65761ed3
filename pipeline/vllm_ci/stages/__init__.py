"""Stages: the programs that test a server or an image, and how their reports become a result."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.stage import StageSpec
from vllm_ci.stages import grpc, installed, integration, performance, security, streaming, unit
from vllm_ci.stages.command import CommandStage
from vllm_ci.stages.own_tests import OwnTests
from vllm_ci.stages.stage import Stage, StageContext

# In run order: cheap and informative stages first.
STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (unit.STAGE, integration.STAGE, streaming.STAGE, security.STAGE, grpc.STAGE, performance.STAGE)
}

__all__ = [
    "STAGES",
    "Stage",
    "StageContext",
    "is_exclusive",
    "needs_grpc",
    "needs_server",
    "require_grpc",
    "stage_of",
    "unknown",
    "wants_pytest_inside",
]


def stage_of(spec: StageSpec) -> Stage:
    """The stage that a spec describes: a built-in one by name, or a user's.

    Raises:
        UsageError: There is no such stage.
        ConfigError: An installed stage cannot be used.
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
    """Whether the stage needs a server; otherwise it needs only the image."""
    return stage_of(spec).needs_server


def needs_grpc(spec: StageSpec) -> bool:
    """Whether the stage needs the address of a gRPC service, which a URL is not."""
    return spec.name == grpc.STAGE.name


def require_grpc(specs: Iterable[StageSpec], address: str = "") -> None:
    """Check that there is an address if one of the stages needs one.

    Raises:
        UsageError: There is none.
    """
    for spec in specs:
        if needs_grpc(spec) and not address:
            raise grpc.without_address(spec.name)


def is_exclusive(spec: StageSpec) -> bool:
    """Whether the stage measures time, so that nothing else may run on the machine meanwhile."""
    return spec.name == performance.STAGE.name


def wants_pytest_inside(spec: StageSpec) -> bool:
    """Whether the stage runs pytest inside the image, which has to be prepared for that."""
    return spec.name == unit.STAGE.name or (spec.own is not None and spec.own.inside and bool(spec.paths))


def unknown(name: str, known: Iterable[str]) -> UsageError:
    """Create the error for an unknown stage name."""
    names = list(dict.fromkeys(known))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    remedy = f"did you mean {near[0]}?" if near else f"choose from {', '.join(names)}"
    return UsageError(f"unknown stage: {name}", remedy=remedy)
