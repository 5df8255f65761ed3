"""Section ``monitoring:`` of ``vllm-ci.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator

from vllm_ci.config.section import Section

if TYPE_CHECKING:
    from vllm_ci.monitoring.objectives import Targets
    from vllm_ci.monitoring.rules import Watched

Share = Annotated[float, Field(gt=0, lt=1)]


def _url(value: str) -> str:
    parts = urlsplit(value)
    if value and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ValueError("write the URL of the Prometheus server, e.g. http://127.0.0.1:9090")
    if parts.username or parts.password:
        raise ValueError("the URL holds a password; use token_env, or a proxy that adds it")
    return value


def _text(value: str) -> str:
    if not value or any(ord(letter) < 32 for letter in value):
        raise ValueError("the value of a label is text without control characters")
    return value


Label = Annotated[str, Field(pattern=r"^_?[a-zA-Z][a-zA-Z0-9_]*$")]


class ObjectivesConfig(Section):
    """What a channel promises; alerts fire when its error budget is used too fast."""

    availability: Share = 0.999
    """Share of requests without a server error."""
    ttft_s: Annotated[float, Field(gt=0)] = 2.5
    """Time to first token that is in time, in seconds; a bound of its histogram (0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10 ...)."""
    ttft_share: Share = 0.95
    """Share of first tokens in time."""
    days: Annotated[float, Field(ge=7, le=90)] = 30.0
    """Length of the period, in days."""

    @field_validator("ttft_s")
    @classmethod
    def _bound(cls, value: float) -> float:
        from vllm_ci.monitoring.objectives import TTFT_BUCKETS_S

        if value not in TTFT_BUCKETS_S:
            raise ValueError(f"vLLM counts only up to these bounds: {', '.join(f'{each:g}' for each in TTFT_BUCKETS_S)}")
        return value

    def domain(self) -> Targets:
        """Convert to the type of the monitoring code."""
        from vllm_ci.monitoring.objectives import Targets

        return Targets(**self.model_dump())


class WatchConfig(Section):
    """What `vllm-ci watch` compares."""

    hours: Annotated[float, Field(ge=0.25, le=168, allow_inf_nan=False)] = 1.0
    """Length of the time before a release and of that after it, in hours."""
    settle_minutes: Annotated[float, Field(ge=0, le=1440, allow_inf_nan=False)] = 10.0
    """Time after a release that is left out, in minutes: servers start and caches are cold."""
    margins: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    """Tolerated change for the worse by signal: for levels a share of the value before (0.3 is 30 %), for shares a difference
    (0.01 is one percentage point), for growth a share in an hour, for restarts a number."""

    @field_validator("margins")
    @classmethod
    def _known(cls, value: Mapping[str, float]) -> Mapping[str, float]:
        from vllm_ci.monitoring.signals import BY_NAME

        if unknown := [name for name in value if name not in BY_NAME]:
            raise ValueError(f"there is no signal {unknown[0]}; there are {', '.join(BY_NAME)}")
        return value


class MonitoredChannelConfig(Section):
    """How a channel is found in Prometheus."""

    labels: Annotated[dict[Label, Annotated[str, AfterValidator(_text)]], Field(min_length=1)] | None = None
    """Labels of its series, of the servers and of the gateway; by default `channel: NAME`."""
    objectives: ObjectivesConfig = Field(default_factory=ObjectivesConfig)
    """What it promises."""
    rollback: bool = False
    """Allow `vllm-ci watch --rollback` to roll it back."""


class MonitoringConfig(Section):
    """Where metrics are, and what is expected of each channel."""

    prometheus: Annotated[str, AfterValidator(_url)] = ""
    """URL of the Prometheus server that `vllm-ci watch` asks, e.g. `http://127.0.0.1:9090`."""
    token_env: Annotated[str, Field(pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$")] = ""
    """Name of the environment variable with its bearer token."""
    watch: WatchConfig = Field(default_factory=WatchConfig)
    """What `vllm-ci watch` compares."""
    channels: dict[str, MonitoredChannelConfig] = Field(default_factory=dict)
    """By name of the channel; others have the defaults."""

    def channel(self, name: str) -> MonitoredChannelConfig:
        """Settings of a channel."""
        return self.channels.get(name) or MonitoredChannelConfig()

    def watched(self, name: str) -> Watched:
        """Convert to the type of the monitoring code."""
        from vllm_ci.monitoring.rules import Watched

        mine = self.channel(name)
        return Watched(channel=name, labels=mine.labels or {"channel": name}, targets=mine.objectives.domain())
