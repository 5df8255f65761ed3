"""A user's tests as a stage: ``stages: {smoke: {pytest: tests/smoke}}``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vllm_ci.domain.program import Outcome, Program
from vllm_ci.domain.report import StageResult
from vllm_ci.domain.stage import OwnStage
from vllm_ci.stages import reading
from vllm_ci.stages.stage import StageContext
from vllm_ci.stages.suite import QUIET, REPORT, USERS_OWN, identity, options
from vllm_ci.stages.targets import needs, variables

_TOOL = ("python", "-m", "pytest", "-p", "vllm_ci.suites.plugin")
_INSIDE = ("python", "{in.tools}/start.py", "--also={in.source}", "-p", "vllm_ci.suites.inside", "--import-mode=append")


@dataclass(frozen=True, kw_only=True)
class OwnTests:
    """Runs pytest on the configured paths, outside or inside the image, with the fixtures of vllm-ci.

    Attributes:
        name: Name of the stage.
        own: Where it runs, and what it needs.
    """

    name: str
    own: OwnStage

    @property
    def needs_server(self) -> bool:
        """Whether the configuration asks for a server."""
        return self.own.needs_server

    def programs(self, context: StageContext) -> tuple[Program, ...]:
        """One run of pytest.

        Raises:
            UsageError: A required server, image or checkout is missing.
        """
        needs(self.name, self.own, context)
        spec = context.spec
        if self.own.inside:
            facts = ("--vllm-manifest={in.image}/manifest.json", "--vllm-image-config={in.image}/config.json")
            known = (*facts, *(f"{name}={value}" for name, value in identity(context).items() if value))
        else:
            known = options(context)
        inputs = {"source": context.source, "image": context.image_facts, "tools": context.tools if self.own.inside else None}
        inputs["authorities"] = context.authorities
        paths = (f"{{in.source}}/{path}" for path in spec.paths)
        env, secrets = variables(self.own, context)
        return (
            Program(
                name=self.name,
                argv=(*(_INSIDE if self.own.inside else _TOOL), *paths, *USERS_OWN, *REPORT, *known, *spec.pytest_args),
                env={**QUIET, **env, **spec.env},
                secrets=secrets,
                image=context.image if self.own.inside else None,
                inputs={name: directory for name, directory in inputs.items() if directory is not None},
                needs={"vllm": context.service} if self.own.needs_server and context.service is not None else {},
                timeout_s=spec.timeout_s,
            ),
        )

    async def result(self, context: StageContext, outcomes: Sequence[Outcome]) -> StageResult:
        """The cases that pytest reported; fewer than ``promises`` is an error."""
        promised = context.spec.promises
        readings = [await reading.read(outcome, name=self.name, promised=promised) for outcome in outcomes]
        return reading.combine(self.name, outcomes, readings)
