"""Unit: checks inside the image that it matches its locks, and runs the user's own tests; no server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.program import Outcome, Program
from vllm_ci.domain.report import StageResult
from vllm_ci.stages import promises, reading
from vllm_ci.stages.changed import note, paths_for
from vllm_ci.stages.stage import StageContext
from vllm_ci.stages.suite import OURS_ALONE, OURS_ONLY, QUIET, REPORT, USERS_OWN, identity
from vllm_ci.suites import manifest

_START = ("python", "{in.tools}/start.py")


@dataclass(frozen=True, kw_only=True)
class UnitStage:
    """Runs inside the image, with pytest mounted.

    Attributes:
        name: ``unit``.
        promised: Number of built-in cases by function; by default from the manifest.
    """

    name: str = "unit"
    promised: Mapping[str, int] | None = None
    needs_server: bool = False

    def programs(self, context: StageContext) -> tuple[Program, ...]:
        """The integrity of the image, then the user's own tests: those that always run, and those selected by changes."""
        if context.image is None or context.tools is None or context.image_facts is None:
            raise UsageError(
                "the stage unit needs an image, but there is none",
                why="only the URL of the server is known, not its image",
                remedy="leave the stage unit out, or run the pipeline in the checkout that the image is built from",
            )
        spec = context.spec
        # In other modes pytest adds the mounted directory to the path, visible to the code under test.
        ours = ("-p", "vllm_ci.suites.inside", "--import-mode=importlib", "--pyargs", "vllm_ci.suites.unit", *OURS_ALONE)
        integrity = self._program(context, "unit", (*_START, *ours), OURS_ONLY)
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
        """The cases of both pytest runs."""
        expected = manifest.promised(self.name) if self.promised is None else self.promised
        promised = {"unit": 1, "unit-own": context.spec.promises}
        readings = [
            await reading.read(outcome, name=program.name, promised=promised[program.name])
            for outcome, program in zip(outcomes, self.programs(context), strict=True)
        ]
        if context.spec.suite and readings:
            readings[0] = promises.kept(readings[0], self.name, expected)
        selection = note(context.spec, context.changed)
        empty = "the stage has no tests: the built-in cases are disabled, and none of your tests was selected"
        if selection and not readings:
            empty += f" ({selection.message}); name tests that always run: stages.unit.paths"
        extra = (selection,) if selection and readings else ()
        return reading.combine(self.name, outcomes, readings, extra=extra, empty=empty)

    def _paths(self, context: StageContext) -> tuple[str, ...]:
        paths = paths_for(context.spec, context.changed)
        if paths and context.source is None:
            raise UsageError(
                "the stage unit names your own tests, but there is no checkout",
                remedy="run it inside the checkout, or remove `paths` from the stage",
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
