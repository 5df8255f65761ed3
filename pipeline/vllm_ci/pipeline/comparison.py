"""The commit's image against a baseline: where the baseline comes from, and how both are served."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import anyio

from vllm_ci.domain.errors import ConfigError, EngineError, ErroredError, ServiceError
from vllm_ci.domain.events import Progress, step
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.performance import SELF, PerformanceSpec
from vllm_ci.domain.program import Program, Service, ServiceSpec
from vllm_ci.domain.project import Project
from vllm_ci.domain.report import StageResult
from vllm_ci.engine import Engine
from vllm_ci.performance import result
from vllm_ci.performance.comparing import Comparing
from vllm_ci.performance.pairs import Arm
from vllm_ci.performance.result import Compared
from vllm_ci.pipeline import serving, telling
from vllm_ci.pipeline.building import Built
from vllm_ci.pipeline.record import RunRecord
from vllm_ci.pipeline.source import Source
from vllm_ci.stages.stage import StageContext

_TIMEOUT_S = 3 * 3600.0
STAGE = "performance"


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The image to compare with.

    Attributes:
        source: Where it comes from (``channel production``).
        image: The image; ``None`` if there is none yet.
        config: Its OCI configuration.
    """

    source: str
    image: ImageRef | None = None
    config: Mapping[str, Any]


@dataclass(kw_only=True)
class Comparison:
    """Compares the image of a run with its baseline; see :class:`~vllm_ci.stages.stage.Compares`.

    Attributes:
        engine: Where everything runs.
        project: The project to serve.
        source: Its files.
        built: The image of the commit.
        record: Gets the progress, the results so far, and logs of servers.
    """

    engine: Engine
    project: Project
    source: Source
    built: Built
    record: RunRecord

    async def judge(self, context: StageContext, stop: anyio.Event) -> StageResult:
        """Compare them; when ``stop`` is set, return the results so far.

        Raises:
            ErroredError: The baseline could not be obtained, or the model not be created.
        """
        spec = context.spec.performance or PerformanceSpec()
        baseline = await self._baseline(spec)
        subject = {
            "candidate": self.built.image.digest,
            "baseline": baseline.image.digest if baseline.image else "",
            "baseline_source": baseline.source,
        }
        if baseline.image is not None and baseline.image.digest == self.built.image.digest and spec.baseline != SELF:
            return result.same(Compared(spec=spec, subject=subject))
        specs = await self._specs(baseline)
        comparing = Comparing(
            engine=self.engine,
            spec=spec,
            start=lambda arm: self._started(arm, specs[arm]),
            subject=subject,
            model=context.model,
            api_key_env=context.api_key_env,
            seed=self.source.commit.sha,
            tell=lambda text: self.record(Progress(step=STAGE, detail=text)),
            keep=self._keep,
        )
        return await (comparing.judged(stop) if baseline.image is not None else comparing.alone(stop, baseline.source))

    async def _baseline(self, spec: PerformanceSpec) -> Baseline:
        """The baseline, in the store of the engine.

        Raises:
            ErroredError: It could not be obtained.
        """
        if spec.baseline == SELF:
            return Baseline(source="the image itself", image=self.built.image, config=self.built.config)
        with step(self.record, "baseline", spec.baseline) as done:
            outcome = await self.engine.run(
                Program(
                    name="baseline",
                    argv=(
                        *("python", "-m", "vllm_ci", "image", "pull", spec.baseline, "--json", "--facts", "{out}"),
                        *("--config", f"{{in.source}}/{self.project.config}"),
                    ),
                    inputs={"source": self.source.checkout},
                    timeout_s=_TIMEOUT_S,
                )
            )
            if not outcome:
                found = telling.failure(outcome.log)
                kind = ConfigError if outcome.exit_code == ConfigError.exit_code else ErroredError
                raise kind(f"no baseline: {found['message']}", why=found["why"], remedy=found["remedy"])
            facts = json.loads(await outcome.output.read("image.json"))
            if facts["digest"] is None:
                done("none yet")
                return Baseline(source=facts["source"], config={})
            config = json.loads(await outcome.output.read("config.json"))
            done(f"{facts['digest']}, {facts['source']}")
        image = ImageRef(repository=facts["repository"], digest=facts["digest"])
        return Baseline(source=facts["source"], image=image, config=config)

    async def _specs(self, baseline: Baseline) -> dict[Arm, ServiceSpec]:
        """Both servers: the same model, flags and settings, which are computed once."""
        checkpoint = await serving.model(
            self.engine, self.project, self.source, self.built.image, self.record, f"model@{STAGE}"
        )
        project = await serving.fitted(self.engine, self.project, self.built, checkpoint, self.record, f"settings@{STAGE}")
        other = replace(self.built, image=baseline.image, config=baseline.config) if baseline.image else self.built
        built = {Arm.CANDIDATE: self.built, Arm.BASELINE: other}
        return {arm: serving.service(self.engine, project, each, checkpoint) for arm, each in built.items()}

    @asynccontextmanager
    async def _started(self, arm: Arm, spec: ServiceSpec) -> AsyncIterator[Service]:
        """A fresh start; its log becomes that of the arm in the report."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                service = await stack.enter_async_context(self.engine.serve(spec))
            except ServiceError as error:
                self.record.logs[f"{STAGE}-{arm}"] = error.log
                raise serving.explained(error) from error
            try:
                yield service
            finally:
                with contextlib.suppress(EngineError):
                    self.record.logs[f"{STAGE}-{arm}"] = await service.log()

    def _keep(self, so_far: StageResult) -> None:
        """Keep what was found, for a report that is written before the stage has ended."""
        if self.record.runner is not None:
            self.record.runner.results[STAGE] = so_far
