"""The section ``stages:``."""

from __future__ import annotations

import datetime as dt
import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_serializer, model_validator
from pydantic.json_schema import SkipJsonSchema

from vllm_ci.config.paths import Pattern, TestPath
from vllm_ci.config.performance import PerformanceStageConfig
from vllm_ci.config.secret_names import SecretNames
from vllm_ci.config.section import Section
from vllm_ci.domain.stage import Accepted, AcceptedFinding, AcceptedKnown, ChangedRule, OwnStage, StageSpec, refusal_of_name

BUDGETED = ("integration", "streaming", "security")
"""Stages that have a budget."""
Severity = Literal["low", "medium", "high", "critical"]


class AcceptedFindingConfig(Section):
    """A security finding that is accepted until a date, or all that are known of the server's version of vLLM."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["id", "reason"], "not": {"required": ["up_to"]}}, {"required": ["known"]}]}
    )

    id: Annotated[str, Field(min_length=1)] = ""
    """Id of the finding as the report shows it, e.g. `open-route:POST /invocations`."""
    known: Literal["vllm"] | SkipJsonSchema[None] = None
    """Instead of `id`: the findings that are known of the version of vLLM that the server reports."""
    up_to: Literal["low", "medium", "high"] = "high"
    """With `known`: highest severity that is accepted. Critical findings never are."""
    reason: Annotated[str, Field(min_length=1)] = ""
    """Why it is accepted; optional with `known`."""
    until: dt.date
    """Last day on which it is accepted, e.g. `2027-06-30`; after that it fails again."""

    @model_validator(mode="after")
    def _one(self) -> AcceptedFindingConfig:
        if bool(self.id) == bool(self.known):
            given = "both" if self.id else "none of them"
            raise ValueError(f"an entry has either `id` or `known`; this one has {given}")
        if self.id and not self.reason:
            raise ValueError(f"add `reason`: why {self.id} is accepted")
        if self.id and "up_to" in self.model_fields_set:
            raise ValueError("`up_to` is only for an entry with `known`")
        return self

    @model_serializer
    def _as_written(self) -> dict[str, str]:
        return self.domain().entry()

    def domain(self) -> Accepted:
        """Convert to the domain type."""
        if self.known:
            return AcceptedKnown(known=self.known, up_to=self.up_to, reason=self.reason, until=self.until)
        return AcceptedFinding(id=self.id, reason=self.reason, until=self.until)


class ChangedRuleConfig(Section):
    """Tests to run for certain changes."""

    changed: Annotated[list[Pattern], Field(min_length=1)]
    """Patterns of changed files, e.g. `vllm/entrypoints/**`."""
    run: Annotated[list[TestPath], Field(min_length=1)]
    """Tests to run then, relative to the checkout."""

    def domain(self) -> ChangedRule:
        """Convert to the domain type."""
        return ChangedRule(changed=tuple(self.changed), run=tuple(self.run))


class StageConfig(Section):
    """One stage."""

    enabled: bool = True
    """Whether it runs when no stage is named on the command line."""
    suite: bool = True
    """Run the built-in cases."""
    paths: list[TestPath] = Field(default_factory=list)
    """Your own tests, relative to the checkout; they get the same fixtures."""
    promises: Annotated[int, Field(ge=1)] = 1
    """Minimum number of cases of your own tests; fewer is an error, not a pass."""
    timeout_s: Annotated[float, Field(gt=0)] = 1800.0
    """Timeout for each run of tests, in seconds."""
    pytest_args: list[str] = Field(default_factory=list)
    """Additional arguments for pytest, e.g. `-k`, `not embeddings`."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables for the tests."""

    def domain(self, name: str) -> StageSpec:
        """Convert to the domain type."""
        return StageSpec(
            name=name,
            suite=self.suite,
            paths=tuple(self.paths),
            promises=self.promises,
            timeout_s=self.timeout_s,
            pytest_args=tuple(self.pytest_args),
            env=dict(self.env),
        )


class UnitStageConfig(StageConfig):
    """Inside the image, without a server."""

    changed: list[ChangedRuleConfig] = Field(default_factory=list)
    """Rules that add tests for files changed since the base branch (a fork's own tests)."""

    def domain(self, name: str) -> StageSpec:
        """Convert to the domain type."""
        return replace(super().domain(name), changed=tuple(rule.domain() for rule in self.changed))


class ServerStageConfig(StageConfig):
    """Against the server."""

    budget_s: Annotated[float, Field(ge=0)] = 90.0
    """Time budget for the built-in cases, in seconds: on a slow server they are reduced; 0 runs all at full size."""
    require: list[str] = Field(default_factory=list)
    """Capabilities that the server must have, e.g. `tools`, `embeddings`; tests of others are skipped if missing."""
    min_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Least share of the built-in cases that must run, from 0 to 1: if the server lacks so much that more are skipped, the
    stage is an error, not a pass."""

    def domain(self, name: str) -> StageSpec:
        """Convert to the domain type."""
        return replace(super().domain(name), budget_s=self.budget_s, require=tuple(self.require), min_share=self.min_share)


class SecurityStageConfig(ServerStageConfig):
    """Against the server, as an attacker would."""

    accept: list[AcceptedFindingConfig] = Field(default_factory=list)
    """Known findings that do not fail the stage until their date. Default: known findings of vLLM itself and of a server
    that runs only for tests. A list replaces the default (`[]`: nothing is accepted)."""
    fail_on: Severity = "medium"
    """Lowest severity that fails the stage."""

    def domain(self, name: str) -> StageSpec:
        """Convert to the domain type."""
        return replace(super().domain(name), accept=tuple(entry.domain() for entry in self.accept), fail_on=self.fail_on)


class GrpcStageConfig(Section):
    """Against vLLM's gRPC service, with `vllm-ci test --grpc HOST:PORT`."""

    timeout_s: Annotated[float, Field(gt=0)] = 1800.0
    """Timeout, in seconds."""
    pytest_args: list[str] = Field(default_factory=list)
    """Additional arguments for pytest."""
    accept: list[AcceptedFindingConfig] = Field(default_factory=list)
    """Findings that do not fail the stage until their date."""
    fail_on: Severity = "medium"
    """Lowest severity that fails the stage."""

    @property
    def enabled(self) -> bool:
        """Never by default: a URL is no address of a gRPC service."""
        return False

    def domain(self, name: str) -> StageSpec:
        """Convert to the domain type."""
        return StageSpec(
            name=name,
            timeout_s=self.timeout_s,
            pytest_args=tuple(self.pytest_args),
            accept=tuple(entry.domain() for entry in self.accept),
            fail_on=self.fail_on,
        )


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_Paths = Annotated[
    list[TestPath],
    BeforeValidator(_listed, json_schema_input_type=TestPath | list[TestPath]),
]


class OwnStageConfig(Section):
    """A stage of your own, with exactly one of `pytest`, `run` and `use`."""

    model_config = ConfigDict(
        populate_by_name=True,
        json_schema_extra={"oneOf": [{"required": [name]} for name in ("pytest", "run", "use")]},
    )

    enabled: bool = True
    """Whether it runs when no stage is named on the command line."""
    pytest: _Paths = Field(default_factory=list)
    """Your tests, relative to this file: a path or a list of paths."""
    run: list[str] = Field(default_factory=list)
    """A command and its arguments, run in the directory of this file; exit code 0 passes, any other fails."""
    use: str = ""
    """Name of a stage that an installed package provides (entry point group `vllm_ci.stages`)."""
    in_: Annotated[Literal["image", "tool"], Field(alias="in")] = "tool"
    """Where it runs: inside the `image`, or outside in the environment of vllm-ci (`tool`)."""
    server: bool | None = None
    """Whether it needs the server; by default only tests outside the image do."""
    promises: Annotated[int, Field(ge=1)] = 1
    """Minimum number of cases; fewer is an error, not a pass."""
    timeout_s: Annotated[float, Field(gt=0)] = 1800.0
    """Timeout in seconds."""
    pytest_args: list[str] = Field(default_factory=list)
    """Additional arguments for pytest, e.g. `-k`, `not slow`."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables for the tests or the command."""
    secrets: SecretNames = Field(default_factory=list)
    """Names of environment variables to pass from the caller; never put values here."""

    @model_validator(mode="after")
    def _one(self) -> OwnStageConfig:
        given = [name for name in ("pytest", "run", "use") if getattr(self, name)]
        if len(given) != 1:
            found = f"it has {' and '.join(given)}" if given else "it has none of them"
            raise ValueError(f"a stage of your own needs exactly one of `pytest`, `run` and `use`; {found}")
        if self.pytest_args and not self.pytest:
            raise ValueError("`pytest_args` is only for a stage with `pytest`")
        if self.run and self.promises > 1:
            raise ValueError("a command is one case: `promises` above 1 is only for a stage with `pytest` or `use`")
        if self.use and (self.in_ == "image" or self.server is not None):
            raise ValueError("an installed stage defines where it runs: remove `in` and `server`")
        return self

    def domain(self, name: str) -> StageSpec:
        """Convert to the domain type."""
        inside = self.in_ == "image"
        own = OwnStage(
            run=tuple(self.run),
            use=self.use,
            inside=inside,
            needs_server=bool(self.pytest) and not inside if self.server is None else self.server,
            secrets=tuple(self.secrets),
        )
        return StageSpec(
            name=name,
            suite=False,
            paths=tuple(self.pytest),
            promises=self.promises,
            timeout_s=self.timeout_s,
            pytest_args=tuple(self.pytest_args),
            env=dict(self.env),
            own=own,
        )


class StagesConfig(Section):
    """Settings of the stages; any other name is a stage of your own."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"propertyNames": {"pattern": "^[a-z][a-z0-9_-]{0,39}$"}})
    __pydantic_extra__: dict[str, OwnStageConfig] = Field(init=False)

    unit: UnitStageConfig = Field(default_factory=UnitStageConfig)
    """Inside the image: it matches its locks, and your own tests pass in it."""
    integration: ServerStageConfig = Field(default_factory=ServerStageConfig)
    """The API follows the wire format."""
    streaming: ServerStageConfig = Field(default_factory=ServerStageConfig)
    """Streams are well formed, progressive and correct."""
    security: SecurityStageConfig = Field(default_factory=SecurityStageConfig)
    """Access control, hostile input and leaks."""
    grpc: GrpcStageConfig = Field(default_factory=GrpcStageConfig)
    """vLLM's gRPC service, where one is given with `vllm-ci test --grpc`."""
    performance: PerformanceStageConfig = Field(default_factory=PerformanceStageConfig)
    """Not slower than a baseline: the image that a channel points to, or another one. Not enabled by default."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        for name, value in data.items() if isinstance(data, Mapping) else ():
            if name not in cls.model_fields:
                _check_own(str(name), value, list(cls.model_fields))
        return data

    @property
    def own(self) -> Mapping[str, OwnStageConfig]:
        """The user's stages by name, in the order of the file."""
        return self.__pydantic_extra__ or {}

    def specs(self) -> dict[str, StageSpec]:
        """All stages by name, in run order."""
        return {name: stage.domain(name) for name, stage in self._all().items()}

    def enabled(self) -> tuple[str, ...]:
        """Names of the stages that run by default."""
        return tuple(name for name, stage in self._all().items() if stage.enabled)

    def _all(self) -> dict[str, StageConfig | GrpcStageConfig | PerformanceStageConfig | OwnStageConfig]:
        return {**{name: getattr(self, name) for name in type(self).model_fields}, **self.own}


class UnknownStage(ValueError):
    """A key of ``stages:`` that is neither a built-in stage nor a complete user-defined one.

    Args:
        name: The key.
        why: What is wrong with it.
        remedy: What to do.
    """

    def __init__(self, name: str, *, why: str, remedy: str) -> None:
        super().__init__(why)
        self.name, self.why, self.remedy = name, why, remedy


def _check_own(name: str, value: Any, ours: list[str]) -> None:
    """Refuse misspelled names of built-in stages, and reserved names.

    Raises:
        UnknownStage: The name is refused.
    """
    if reason := refusal_of_name(name):
        raise UnknownStage(name, why=reason, remedy="give the stage another name")
    keys = set(value) if isinstance(value, Mapping) else set()
    if keys & {"pytest", "run", "use"}:
        return
    near = difflib.get_close_matches(name, ours, n=1, cutoff=0.5)
    known = f"did you mean {near[0]}? " if near else ""
    raise UnknownStage(
        name,
        why=f"{name} is not a built-in stage, and a stage of your own needs one of `pytest`, `run` and `use`",
        remedy=f"{known}The built-in stages are {', '.join(ours)}",
    )
