"""The stage ``performance`` of the section ``stages:``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vllm_ci.config.section import Section
from vllm_ci.domain.performance import SELF, PerformanceSpec
from vllm_ci.domain.stage import StageSpec

Margin = Annotated[float, Field(gt=0, le=1)]


class PairsConfig(Section):
    """Numbers of pairs of starts."""

    min: Annotated[int, Field(ge=3, le=100)] = 6
    """Pairs before the first decision."""
    max: Annotated[int, Field(ge=3, le=100)] = 12
    """Pairs after which the stage is inconclusive. Decisions are made at `min`, every 3 pairs, and here."""

    @model_validator(mode="after")
    def _ordered(self) -> PairsConfig:
        if self.min > self.max:
            raise ValueError(f"`min` ({self.min}) is above `max` ({self.max})")
        return self


class MarginsConfig(Section):
    """Tolerated slowdown by metric, as a share: 0.05 is 5 %."""

    ttft_ms: Margin = 0.05
    """Mean time to first token."""
    tpot_ms: Margin = 0.05
    """Mean time per further token."""
    output_tokens_per_s: Margin = 0.05
    """Generated tokens per second."""


class PerformanceStageConfig(Section):
    """Fresh starts of the commit's image and of a baseline, compared in pairs on one machine."""

    enabled: bool = False
    """Whether it runs when no stage is named on the command line."""
    baseline: Annotated[str, Field(min_length=1)] = "production"
    """Image to compare with: name of a channel (its current release), a commit, a digest, or a reference of an image."""
    workload: Literal["chat", "code", "long-context", "multi-turn", "shared-prefix", "structured"] = "chat"
    """What is asked."""
    requests: Annotated[int, Field(ge=2)] = 32
    """Requests of a round. Every start of a server is asked the same ones, so counters can be compared exactly."""
    rounds: Annotated[int, Field(ge=1, le=100)] = 3
    """Rounds of one start; the median of a pair's rounds counts."""
    concurrency: Annotated[int, Field(ge=1)] = 8
    """Closed loop: requests that run at the same time; not used with `rate`."""
    rate: Annotated[float, Field(ge=0)] = 0.0
    """Open loop: requests per second; 0 is a closed loop."""
    warm_up: Annotated[int, Field(ge=0)] = 8
    """Requests before the first round, which are not counted."""
    pairs: PairsConfig = Field(default_factory=PairsConfig)
    """How many pairs of starts are measured."""
    margins: MarginsConfig = Field(default_factory=MarginsConfig)
    """Tolerated slowdown by metric."""
    first: bool = False
    """Pass without a comparison as long as the baseline's channel has no release; otherwise the stage is inconclusive then."""
    timeout_s: Annotated[float, Field(gt=0)] = 1800.0
    """Timeout of the measurement of one start, in seconds."""

    @model_validator(mode="after")
    def _another(self) -> PerformanceStageConfig:
        if self.baseline == SELF:
            raise ValueError("an image cannot be its own baseline; `vllm-ci bench --aa` compares it with itself")
        return self

    def domain(self, name: str) -> StageSpec:
        """Convert to the domain type."""
        return StageSpec(
            name=name,
            suite=False,
            timeout_s=self.timeout_s,
            performance=PerformanceSpec(
                baseline=self.baseline,
                workload=self.workload,
                requests=self.requests,
                rounds=self.rounds,
                concurrency=self.concurrency,
                rate=self.rate,
                warm_up=self.warm_up,
                least_pairs=self.pairs.min,
                most_pairs=self.pairs.max,
                margins=self.margins.model_dump(),
                first=self.first,
                timeout_s=self.timeout_s,
            ),
        )
