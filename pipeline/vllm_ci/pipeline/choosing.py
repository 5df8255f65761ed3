"""Resolve the stages that a pipeline names, and which of them are selected."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_ci.domain.errors import ConfigError
from vllm_ci.domain.project import Project
from vllm_ci.domain.stage import OwnStage, StageSpec
from vllm_ci.pipeline.errors import misuse
from vllm_ci.stages import Stage, installed, stage_of, unknown

Named = str | Stage
"""The name of a stage, or a stage object."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The stages of a project.

    Raises:
        ConfigError: A stage that should run cannot be used.
    """

    project: Project

    def __post_init__(self) -> None:
        for spec in self.project.stages:
            stage_of(spec)

    def find(self, named: Named, at: str) -> tuple[StageSpec, Stage]:
        """Find a stage by its name, or describe a stage object.

        Raises:
            PipelineError: There is no such stage.
        """
        known = {spec.name: spec for spec in (*self.project.known, *self.project.stages)}
        if not isinstance(named, str):
            return self._described(named, known, at), named
        if named in known:
            return known[named], stage_of(known[named])
        if named in installed.names():
            stage = self._installed(named, at)
            return StageSpec(name=named, suite=False, own=OwnStage(use=named)), stage
        error = unknown(named, (*known, *installed.names()))
        raise misuse(error.message, why=error.why, remedy=error.remedy, at=at)

    @staticmethod
    def _installed(name: str, at: str) -> Stage:
        try:
            return installed.load(name)
        except ConfigError as error:  # of a package that only the pipeline names: what was found before is kept
            raise misuse(error.message, why=error.why, remedy=error.remedy, at=at) from error

    @staticmethod
    def _described(stage: Stage, known: dict[str, StageSpec], at: str) -> StageSpec:
        try:
            name = installed.checked(stage, where="the argument of ci.test()").name
        except ConfigError as error:
            raise misuse(error.message, why=error.why, remedy=error.remedy, at=at) from error
        if name in known:
            raise misuse(
                f"two stages are called {name}: this one and one in vllm-ci.yaml",
                remedy=f'use the configured one (ci.test(server, "{name}")), or rename one of them',
                at=at,
            )
        promises, timeout_s = getattr(stage, "promises", 1), getattr(stage, "timeout_s", 1800.0)
        return StageSpec(name=name, suite=False, promises=promises, timeout_s=timeout_s)

    def wants(self, name: str) -> bool:
        """Whether the stage is selected for this run."""
        return not self.project.selected or name in self.project.selected
