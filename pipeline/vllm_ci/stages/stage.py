"""The interface of a stage: it returns programs for a context, and a result for their outcomes."""

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

CA_NAME = "ca.pem"
CA_FILE = "{in.authorities}/" + CA_NAME
"""Where a program finds the certificate authorities of :attr:`StageContext.authorities`."""


class Compares(Protocol):
    """Compares the image of a commit with a baseline, on fresh starts of both."""

    async def judge(self, context: StageContext, stop: anyio.Event) -> StageResult:
        """Compare them; when ``stop`` is set, return the results so far."""


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """The input of a stage.

    Attributes:
        spec: Configuration of the stage.
        commit: The commit that is tested; ``None`` for an external server.
        image: The image of the commit; ``None`` for an external server.
        service: The server, managed by the engine.
        url: Base URL of an external server, if there is no service.
        grpc: Address of a gRPC service (``HOST:PORT``), for the stage ``grpc``; empty if there is none.
        model: Served model name; if empty, the first that the server lists.
        api_key_env: Name of the variable with the server's API key; empty if it needs none.
        source: The user's checkout at the commit.
        tools: Files to run pytest inside an image, from :func:`vllm_ci.stages.mounts.gather`.
        image_facts: Directory with ``manifest.json`` (expected files) and ``config.json`` (OCI configuration) of the image.
        changed: Differences from the base branch; ``None`` if not determined.
        secrets: Values of secrets by variable name, for stages that search logs for them; an API key that is missing here
            is read from the caller's environment.
        tensor_parallel_size: Tensor parallel size of the server; 0 if unknown.
        quantization: Quantization of the server; empty if unknown.
        authorities: Directory with ``ca.pem``, more certificate authorities for an external server.
        stage: The stage object, if it was passed as an object and not by name.
        only: Names of the cases to run; by default all.
        compares: Compares the image with a baseline; ``None`` where there is no image.
    """

    spec: StageSpec
    commit: Commit | None = None
    image: ImageRef | None = None
    service: Service | None = None
    url: str = ""
    grpc: str = ""
    model: str = ""
    api_key_env: str = ""
    source: Directory | None = None
    tools: Directory | None = None
    image_facts: Directory | None = None
    changed: Changes | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    tensor_parallel_size: int = 0
    quantization: str = ""
    authorities: Directory | None = None
    stage: Stage | None = None
    only: tuple[str, ...] = ()
    compares: Compares | None = field(default=None, repr=False)


class Stage(Protocol):
    """A stage of the pipeline."""

    @property
    def name(self) -> str:
        """Name in the configuration and the report."""

    @property
    def needs_server(self) -> bool:
        """Whether its programs need a server (a service or a URL); otherwise they need an image."""

    def programs(self, context: StageContext) -> tuple[Program, ...]:
        """Programs to run, in this order.

        Raises:
            UsageError: The context lacks something that the stage requires.
        """

    async def result(self, context: StageContext, outcomes: Sequence[Outcome]) -> StageResult:
        """Read the outcomes of the programs, in the same order."""


@runtime_checkable
class Judges(Protocol):
    """A stage that runs in the process of the pipeline instead of running programs: a user's function."""

    async def judge(self, context: StageContext, engine: Engine, stop: anyio.Event) -> StageResult:
        """Run the stage; when ``stop`` is set, return the results so far."""
