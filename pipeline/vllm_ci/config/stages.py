"""``stages:``."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from vllm_ci.config.paths import Pattern, TestPath
from vllm_ci.config.section import Section
from vllm_ci.domain.stage import AcceptedFinding, ChangedRule, StageSpec

BUDGETED = ("integration", "streaming", "security")
"""Stages that have a budget."""
Severity = Literal["low", "medium", "high", "critical"]


class AcceptedFindingConfig(Section):
    """A security finding that is lived with, for a while."""

    id: Annotated[str, Field(min_length=1)]
    """Id of the finding as the report shows it, e.g. `open-route:POST /invocations`."""
    reason: Annotated[str, Field(min_length=1)]
    """Why it is lived with."""
    until: dt.date
    """Last day on which it is accepted, e.g. `2027-06-30`; afterwards it fails again."""

    def domain(self) -> AcceptedFinding:
        """As the stages take it."""
        return AcceptedFinding(id=self.id, reason=self.reason, until=self.until)


class ChangedRuleConfig(Section):
    """Which tests a change calls for."""

    changed: Annotated[list[Pattern], Field(min_length=1)]
    """Patterns of changed files, e.g. `vllm/entrypoints/**`."""
    run: Annotated[list[TestPath], Field(min_length=1)]
    """Tests that are then run, relative to the checkout."""

    def domain(self) -> ChangedRule:
        """As the stages take it."""
        return ChangedRule(changed=tuple(self.changed), run=tuple(self.run))


class StageConfig(Section):
    """One stage."""

    enabled: bool = True
    """Whether it runs when no stage is named on the command line."""
    suite: bool = True
    """Run the cases this tool brings."""
    paths: list[TestPath] = Field(default_factory=list)
    """Your own tests, relative to the checkout; they get the same fixtures."""
    promises: Annotated[int, Field(ge=1)] = 1
    """Least number of cases of your own tests; fewer is an error, not a pass."""
    timeout_s: Annotated[float, Field(gt=0)] = 1800.0
    """Longest time for each run of tests, in seconds."""
    pytest_args: list[str] = Field(default_factory=list)
    """Further arguments for pytest, e.g. `-k`, `not embeddings`."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment for the tests."""

    def domain(self, name: str) -> StageSpec:
        """As the stage takes it."""
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
    """Rules that add tests by what changed since the base branch (a fork's own tests)."""

    def domain(self, name: str) -> StageSpec:
        """As the stage takes it."""
        return replace(super().domain(name), changed=tuple(rule.domain() for rule in self.changed))


class ServerStageConfig(StageConfig):
    """Against the server."""

    budget_s: Annotated[float, Field(ge=0)] = 90.0
    """Time for the cases this tool brings, in seconds: on a slow server they ask for less; 0 runs all at full size."""
    require: list[str] = Field(default_factory=list)
    """Capabilities the server must have, e.g. `tools`, `embeddings`; without this a missing one is a skip with a reason."""

    def domain(self, name: str) -> StageSpec:
        """As the stage takes it."""
        return replace(super().domain(name), budget_s=self.budget_s, require=tuple(self.require))


class SecurityStageConfig(ServerStageConfig):
    """Against the server, as an attacker would."""

    accept: list[AcceptedFindingConfig] = Field(default_factory=list)
    """Known findings that do not fail the stage until their date. Left out, it is what is known of vLLM itself and of a server
    that lives for one test; written, it holds what you write (`[]`: nothing is accepted)."""
    fail_on: Severity = "medium"
    """Least severity that fails the stage."""

    def domain(self, name: str) -> StageSpec:
        """As the stage takes it."""
        return replace(super().domain(name), accept=tuple(entry.domain() for entry in self.accept), fail_on=self.fail_on)


class StagesConfig(Section):
    """Which stages run, and what each of them asks."""

    unit: UnitStageConfig = Field(default_factory=UnitStageConfig)
    """Inside the image: it is what its locks say, and your own tests pass in it."""
    integration: ServerStageConfig = Field(default_factory=ServerStageConfig)
    """The API answers as the wire format says."""
    streaming: ServerStageConfig = Field(default_factory=ServerStageConfig)
    """Streams are well formed, progressive and true."""
    security: SecurityStageConfig = Field(default_factory=SecurityStageConfig)
    """Who may call what, what hostile input does, what leaks."""

    def specs(self) -> dict[str, StageSpec]:
        """Every stage by name, in the order they run."""
        return {name: getattr(self, name).domain(name) for name in type(self).model_fields}

    def enabled(self) -> tuple[str, ...]:
        """Names of the stages that run when none is named."""
        return tuple(name for name in type(self).model_fields if getattr(self, name).enabled)
