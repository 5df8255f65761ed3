"""Section ``deploy:`` of ``vllm-ci.yaml``: where a channel serves, and how a new release takes the place of the old one."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from vllm_ci.config.gateway import GatewayConfig
from vllm_ci.config.kubernetes import KubernetesConfig
from vllm_ci.config.section import Section
from vllm_ci.deploy import condition
from vllm_ci.deploy.analysis import Analysis
from vllm_ci.deploy.rolling import Rolling
from vllm_ci.deploy.scaling import Scale
from vllm_ci.deploy.strategy import BlueGreen, Canary, CanaryStep, Shadow, Strategy
from vllm_ci.domain.gateway import Waiting, Wire

StrategyName = Literal["blue-green", "rolling", "canary", "shadow"]
_Seconds = Annotated[float, Field(ge=0, le=7 * 24 * 3600, allow_inf_nan=False)]
_Percent = Annotated[int, Field(ge=1, le=100)]


def _condition(text: str) -> str:
    condition.parse(text)
    return text


def _header(value: str) -> str:
    if value == "preview":
        raise ValueError("`preview` is the name that checks use; choose another")
    return value


class BlueGreenConfig(Section):
    """All replicas are started and checked, then all requests go to them at once."""

    person: bool = False
    """A person decides after the checks: `vllm-ci deploy promote CHANNEL` or `vllm-ci deploy abort CHANNEL`."""
    watch_s: _Seconds = 0.0
    """How long the analysis watches after the change, in seconds; 0: not at all."""


class RollingConfig(Section):
    """Replicas are replaced a few at a time."""

    max_surge: Annotated[int, Field(ge=0, le=1000)] = 1
    """Replicas beyond the wanted number."""
    max_unavailable: Annotated[int, Field(ge=0, le=1000)] = 0
    """Replicas that may be missing meanwhile."""
    hold_s: _Seconds = 0.0
    """How long the analysis watches each step, in seconds; 0: not at all."""


class CanaryStepConfig(Section):
    """A share of the requests."""

    weight: _Percent
    """In percent."""
    hold_s: _Seconds = 60.0
    """How long the analysis watches it, in seconds; 0: not at all."""
    person: bool = False
    """A person decides at its end."""


def _stages() -> list[CanaryStepConfig]:
    return [CanaryStepConfig(weight=weight) for weight in (5, 25, 50, 100)]


class CanaryConfig(Section):
    """The new release gets more and more of the requests."""

    steps: Annotated[list[CanaryStepConfig], Field(min_length=1)] = Field(default_factory=_stages)
    """Their weights rise; after the last all requests go to the new release."""
    header: Annotated[str, Field(pattern=r"^([A-Za-z0-9._-]{1,64})?$"), AfterValidator(_header)] = ""
    """Requests with the header `x-vllm-ci-revision: VALUE` reach the new release from its start on."""

    @model_validator(mode="after")
    def _rising(self) -> CanaryConfig:
        given = [each.weight for each in self.steps]
        if sorted(set(given)) != given:
            raise ValueError(f"the weights must rise, not {given}")
        return self


class ShadowConfig(Section):
    """The new release gets copies of requests; nobody sees its answers."""

    percent: _Percent = 10
    """Share of the requests that are copied."""
    hold_s: Annotated[float, Field(gt=0, le=7 * 24 * 3600, allow_inf_nan=False)] = 300.0
    """How long, in seconds."""
    compare: bool = False
    """Record both answers to each copied request and compare them: `vllm-ci deploy compare CHANNEL`; target `local` can."""
    person: bool = False
    """A person decides at its end."""
    watch_s: _Seconds = 0.0
    """How long the analysis watches when all requests go to it, in seconds; 0: not at all."""


class AnalysisConfig(Section):
    """What is required of each step that is watched."""

    conditions: Annotated[list[Annotated[str, AfterValidator(_condition)]], Field(min_length=1)] = Field(
        default_factory=lambda: ["errors <= 1%"]
    )
    """All must hold, e.g. `errors <= 1%`, `ttft_ms.p95 <= 1.2 * baseline`, `shadow.tokens >= 98%`."""
    interval_s: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = 10.0
    """Length of one measurement, in seconds."""
    min_requests: Annotated[int, Field(ge=1)] = 20
    """Requests that the new release must have answered before anything is concluded; with fewer, a person decides."""
    failures: Annotated[int, Field(ge=1)] = 1
    """Consecutive failing measurements after which it goes back."""
    errors: Annotated[int, Field(ge=1)] = 4
    """Consecutive measurements that could not be made, after which it goes back."""

    def domain(self) -> Analysis:
        """Convert to the type of the deployment."""
        return Analysis(
            conditions=tuple(condition.parse(each) for each in self.conditions),
            interval_s=self.interval_s,
            min_requests=self.min_requests,
            failures=self.failures,
            errors=self.errors,
        )


_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _duration(value: object) -> object:
    """Seconds of a number with a unit, such as ``10m``; other values are checked as numbers of seconds."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smh])", value)
    if not found:
        raise ValueError(f"{value!r} is not a time such as `90s`, `10m` or `1h`")
    return float(found[1]) * _UNITS_S[found[2]]


_Duration = Annotated[
    float,
    BeforeValidator(_duration, json_schema_input_type=float | Annotated[str, Field(pattern=r"^\d+(\.\d+)?[smh]$")]),
    Field(gt=0, le=7 * 24 * 3600, allow_inf_nan=False),
]


class ScaleConfig(Section):
    """Number of servers by load, kept by `vllm-ci agent`; in a cluster see `kubernetes.autoscaling`."""

    min: Annotated[int, Field(ge=0, le=1000)] = 1
    """Fewest servers; 0 at target `local`: none while no requests come, and the first one starts a server and waits for it."""
    max: Annotated[int, Field(ge=1, le=1000)] = 1
    """Most servers."""
    idle: _Duration = 600.0
    """With `min: 0`: how long no request must have come before the last server is ended, as `10m` or in seconds."""
    queue: Annotated[int, Field(ge=1, le=10_000)] = 100
    """With `min: 0`: requests that wait for the first server; more get 503 with `Retry-After`."""
    wait: _Duration = 300.0
    """With `min: 0`: how long a request waits at most, as `5m` or in seconds; then it gets 503 with `Retry-After`."""
    sleep: bool = False
    """With `min: 0`: the last server is not ended, but frees its GPUs; its weights stay in main memory (vLLM's sleep mode)."""
    requests: Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)] = 16.0
    """Requests, running and waiting, that one server should have."""
    down_s: Annotated[float, Field(ge=0, le=24 * 3600, allow_inf_nan=False)] = 300.0
    """For how long fewer servers must have been enough before one is ended, in seconds."""

    @model_validator(mode="after")
    def _possible(self) -> ScaleConfig:
        if self.min > self.max:
            raise ValueError(f"`min` ({self.min}) is above `max` ({self.max})")
        if self.sleep and self.min:
            raise ValueError("`sleep` needs `min: 0`: servers sleep while no requests come")
        return self

    def domain(self) -> Scale:
        """Convert to the type of the deployment."""
        return Scale(least=self.min, most=self.max, requests=self.requests, down_s=self.down_s, idle_s=self.idle)


_Command = Annotated[list[str], Field(min_length=1)]


class ChecksConfig(Section):
    """Commands that must end with exit code 0, run in the folder of this file; 4 lets a person decide, others go back."""

    before: list[_Command] = Field(default_factory=list)
    """Before any user reaches the new release, e.g. `[vllm-ci, test, --stage, integration]`."""
    after: list[_Command] = Field(default_factory=list)
    """When all requests go to it."""
    timeout_s: Annotated[float, Field(gt=0, le=24 * 3600)] = 3600.0
    """Longest time for each command, in seconds."""


class DeploySettings(Section):
    """Where a channel serves, and how it changes."""

    target: Literal["local", "kubernetes", "memory"] = "local"
    """`local`: processes on this machine behind Envoy; `kubernetes`; `memory`: serves nobody, to try out plans."""
    protocol: Wire = "http"
    """What clients speak: `http`, the OpenAI-compatible API, or `grpc`, vLLM's gRPC service (`vllm serve --grpc`); one server
    has one of them. `grpc` is for target `local`; its image needs the packages of `vllm[grpc]`."""
    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Number of servers; with `scale`, of the first deployment."""
    scale: ScaleConfig | None = None
    """Number of servers by load; by default it stays at `replicas`."""
    memory_gib: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Memory that one server needs; 0: not known, and not counted."""
    drain_s: _Seconds = 120.0
    """How long open streams may go on when a server gets no new requests, in seconds."""
    keep_s: _Seconds = 300.0
    """How long the old release is kept ready after the change, in seconds; a rollback in that time takes effect at once."""
    strategy: StrategyName = "blue-green"
    """How a new release takes the place of the old one."""
    blue_green: BlueGreenConfig = Field(default_factory=BlueGreenConfig)
    """Settings of strategy `blue-green`."""
    rolling: RollingConfig = Field(default_factory=RollingConfig)
    """Settings of strategy `rolling`."""
    canary: CanaryConfig = Field(default_factory=CanaryConfig)
    """Settings of strategy `canary`."""
    shadow: ShadowConfig = Field(default_factory=ShadowConfig)
    """Settings of strategy `shadow`."""
    analysis: AnalysisConfig = Field(default_factory=AnalysisConfig)
    """What is required of each step that is watched."""
    checks: ChecksConfig = Field(default_factory=ChecksConfig)
    """Commands that must succeed."""
    gateway: GatewayConfig = Field(default_factory=GatewayConfig)
    """Settings of the gateway of target `local`."""
    kubernetes: KubernetesConfig = Field(default_factory=KubernetesConfig)
    """Settings of target `kubernetes`."""

    @model_validator(mode="after")
    def _patient(self) -> DeploySettings:
        if self.waiting and self.waiting.wait_s >= self.gateway.idle_timeout_s:
            raise ValueError(f"`scale.wait` must be below `gateway.idle_timeout_s` ({self.gateway.idle_timeout_s:g} s)")
        return self

    @property
    def waiting(self) -> Waiting | None:
        """How requests wait for the first server, where none runs while no requests come."""
        if self.scale is None or self.scale.min:
            return None
        return Waiting(queue=self.scale.queue, wait_s=self.scale.wait)

    def plan(self, name: str = "") -> Strategy:
        """The strategy ``name``, by default that of the configuration, with its settings."""
        chosen = name or self.strategy
        if chosen == "rolling":
            return Rolling(**self.rolling.model_dump())
        if chosen == "shadow":
            return Shadow(**self.shadow.model_dump())
        if chosen == "canary":
            stages = tuple(CanaryStep(**each.model_dump()) for each in self.canary.steps)
            return Canary(stages=stages, header=self.canary.header)
        return BlueGreen(**self.blue_green.model_dump())


class DeployConfig(DeploySettings):
    """Where channels serve, and how they change."""

    channels: dict[str, DeploySettings] = Field(default_factory=dict)
    """Settings of one channel that differ from these, by its name in `release.channels`."""

    def of(self, channel: str) -> DeploySettings:
        """The settings of a channel: its own, and the common ones for the rest."""
        common = self.model_dump(exclude_unset=True, exclude={"channels"})
        own = self.channels.get(channel, DeploySettings()).model_dump(exclude_unset=True)
        return DeploySettings.model_validate(_merged(common, own))


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merged(under[key], value) for key, value in over.items() if _are_sections(under.get(key), value)}
    return {**under, **over, **both}


def _are_sections(under: Any, over: Any) -> bool:
    return isinstance(under, dict) and isinstance(over, dict)
