"""Unit: inside the image, without a server: is it what its locks say, and do the user's own tests pass in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.program import Outcome, Program
from vllm_ci.domain.report import StageResult
from vllm_ci.stages import promises, reading
from vllm_ci.stages.changed import note, paths_for
from vllm_ci.stages.stage import StageContext
from vllm_ci.stages.suite import OURS_ALONE, QUIET, REPORT, USERS_OWN, identity
from vllm_ci.suites import manifest

_START = ("python", "{in.tools}/start.py")


@dataclass(frozen=True, kw_only=True)
class UnitStage:
    """Runs inside the image, with pytest mounted beside what is installed there.

    Attributes:
        name: ``unit``.
        promised: Number of cases by function of our own; by default as the manifest says.
    """

    name: str = "unit"
    promised: Mapping[str, int] | None = None
    needs_server: bool = False

    def programs(self, context: StageContext) -> tuple[Program, ...]:
        """The integrity of the image, then the user's own tests: those that are named, and those that the changes call for."""
        if context.image is None or context.tools is None or context.image_facts is None:
            raise UsageError(
                "the unit stage looks into an image, and there is none",
                why="a server that is only known by its URL cannot be looked into",
                remedy="leave the stage unit out, or run the pipeline in the checkout that the image is built from",
            )
        spec = context.spec
        # In any other mode pytest puts the mounted folder on the path, where the code under test would find it.
        ours = ("-p", "vllm_ci.suites.inside", "--import-mode=importlib", "--pyargs", "vllm_ci.suites.unit", *OURS_ALONE)
        integrity = self._program(context, "unit", (*_START, *ours), {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
        paths = self._paths(context)
        tests = (
            "-p",
            "vllm_ci.suites.inside",
            "--import-mode=append",
            *(f"{{in.source}}/{path}" for path in paths),
            *USERS_OWN,
        )
        own = self._program(context, "unit-own", (*_START, "--also=" + "{in.source}", *tests), spec.env)
        return (*((integrity,) if spec.suite else ()), *((own,) if paths else ()))

    async def result(self, context: StageContext, outcomes: Sequence[Outcome]) -> StageResult:
        """Cases of both runs."""
        expected = manifest.promised(self.name) if self.promised is None else self.promised
        promised = {"unit": 1, "unit-own": context.spec.promises}
        readings = [
            await reading.read(outcome, name=program.name, promised=promised[program.name])
            for outcome, program in zip(outcomes, self.programs(context), strict=True)
        ]
        if context.spec.suite and readings:
            readings[0] = promises.kept(readings[0], self.name, expected)
        said = note(context.spec, context.changed)
        empty = "the stage names no tests: its own cases are switched off, and no test of yours was chosen"
        if said and not readings:
            empty += f" ({said.message}); name tests that always run: stages.unit.paths"
        extra = (said,) if said and readings else ()
        return reading.combine(self.name, outcomes, readings, extra=extra, empty=empty)

    def _paths(self, context: StageContext) -> tuple[str, ...]:
        paths = paths_for(context.spec, context.changed)
        if paths and context.source is None:
            raise UsageError(
                "the stage unit names tests of yours, but there is no checkout to take them from",
                remedy="run it inside the checkout, or take `paths` out of the stage",
            )
        return paths

    def _program(self, context: StageContext, name: str, argv: tuple[str, ...], env: object) -> Program:
        inputs = {"tools": context.tools, "image": context.image_facts, "source": context.source}
        facts = ("--vllm-manifest={in.image}/manifest.json", "--vllm-image-config={in.image}/config.json")
        known = tuple(f"{option}={value}" for option, value in identity(context).items() if value)
        return Program(
            name=name,
            argv=(*argv, *REPORT, *facts, *known, *context.spec.pytest_args),
            env={**QUIET, **(env if isinstance(env, dict) else {})},
            image=context.image,
            inputs={key: value for key, value in inputs.items() if value is not None},
            timeout_s=context.spec.timeout_s,
        )


STAGE = UnitStage()
