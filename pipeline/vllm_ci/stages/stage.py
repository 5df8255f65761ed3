"""The port of a stage: data in, programs out; outcomes in, a result out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import anyio

from vllm_ci.domain.changes import Changes
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.program import Directory, Outcome, Program, Service
from vllm_ci.domain.report import StageResult
from vllm_ci.domain.stage import StageSpec
from vllm_ci.engine import Engine


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """What a stage may look at.

    Attributes:
        spec: What the user said about the stage.
        commit: What is tested; ``None`` for a foreign server.
        image: Built from the commit; ``None`` for a foreign server.
        service: The server, held by the engine.
        url: Base URL of a foreign server, when there is no service.
        model: Served model name; empty takes the first of the server's list.
        api_key_env: Name of the variable that holds the server's API key; empty when it asks for none.
        source: The user's checkout at the commit.
        tools: pytest and our parts for inside an image, as :func:`vllm_ci.stages.mounts.gather` lays them out.
        image_facts: Holds ``manifest.json`` (what the image's files must be) and ``config.json`` (its OCI configuration).
        changed: What differs from the base branch; ``None`` when that was not looked up.
        secrets: Values of secrets by the name of their variable, for stages that look for them in logs; a key that is not
            among them is looked up in the environment of the caller.
        tensor_parallel_size: That the server was started with; 0 when unknown.
        quantization: That the server was started with; empty when unknown.
        stage: The stage itself, where it is an object of the user's and not found by its name.
    """

    spec: StageSpec
    commit: Commit | None = None
    image: ImageRef | None = None
    service: Service | None = None
    url: str = ""
    model: str = ""
    api_key_env: str = ""
    source: Directory | None = None
    tools: Directory | None = None
    image_facts: Directory | None = None
    changed: Changes | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    tensor_parallel_size: int = 0
    quantization: str = ""
    stage: Stage | None = None


class Stage(Protocol):
    """Judges one aspect."""

    @property
    def name(self) -> str:
        """As in the configuration and the report."""

    @property
    def needs_server(self) -> bool:
        """Its programs need a server (a service or a URL); otherwise they need an image."""

    def programs(self, context: StageContext) -> tuple[Program, ...]:
        """What to run, in this order.

        Raises:
            UsageError: The context lacks what the stage cannot do without.
        """

    async def result(self, context: StageContext, outcomes: Sequence[Outcome]) -> StageResult:
        """Read what the programs (one outcome each, in the same order) left behind."""


@runtime_checkable
class Judges(Protocol):
    """A stage that judges by itself, in the process of the pipeline, in place of programs: a function of the user's."""

    async def judge(self, context: StageContext, engine: Engine, stop: anyio.Event) -> StageResult:
        """Judge, until ``stop`` is set: then what was found by that time is the result."""
