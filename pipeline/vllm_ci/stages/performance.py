"""Performance: fresh starts of the commit's image and of a baseline, compared in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from vllm_ci.domain.errors import EngineError, UsageError
from vllm_ci.domain.program import Outcome, Program
from vllm_ci.domain.report import StageResult
from vllm_ci.engine import Engine
from vllm_ci.stages.stage import StageContext


@dataclass(frozen=True, kw_only=True)
class PerformanceStage:
    """Starts servers of its own, so it needs an image and no server.

    Attributes:
        name: ``performance``.
    """

    name: str = "performance"
    needs_server: bool = False

    def programs(self, context: StageContext) -> tuple[Program, ...]:  # noqa: ARG002
        """No programs: how many starts are measured depends on what the first ones show."""
        return ()

    async def result(self, context: StageContext, outcomes: Sequence[Outcome]) -> StageResult:  # noqa: ARG002
        """Not available: :meth:`judge` returns the result.

        Raises:
            EngineError: Always.
        """
        raise EngineError(f"the stage {self.name} runs no programs of its own", remedy="call judge()")

    async def judge(self, context: StageContext, engine: Engine, stop: anyio.Event) -> StageResult:  # noqa: ARG002
        """Compare the image with the baseline.

        Raises:
            UsageError: There is no image.
        """
        if context.compares is None:
            raise UsageError(
                f"the stage {self.name} needs an image, but there is none",
                why="it starts the image of the commit and that of a baseline; only the URL of the server is known",
                remedy="run the pipeline in a checkout (vllm-ci run), or measure the server: vllm-ci bench --url URL",
            )
        return await context.compares.judge(context, stop)


STAGE = PerformanceStage()
