"""Common parts of the server stages: built-in cases, then the user's, each a run of pytest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.program import Outcome, Program
from vllm_ci.domain.report import Case, StageResult
from vllm_ci.stages import promises, reading
from vllm_ci.stages.stage import CA_FILE, StageContext
from vllm_ci.suites import manifest
from vllm_ci.suites.ends import case_id

# Tests may be read-only, so write nothing next to them; configuration in a parent directory must not affect the run.
QUIET = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "PYTEST_ADDOPTS": "", "COLUMNS": "132"}
REPORT = (
    *("-p", "no:cacheprovider", "-o", "junit_family=xunit1", "-ra", "-v"),
    *("--vllm-report", "{out}", "--junitxml", "{out}/junit.xml"),
)
OURS_ALONE = ("-c", "/dev/null", "--rootdir", "{out}")
USERS_OWN = ("--rootdir", "{in.source}")
# pytest loads the plugins of all installed packages: they could change a verdict, and take time.
OURS_ONLY = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


@dataclass(frozen=True, kw_only=True)
class ServerStage:
    """A stage whose cases need only a URL.

    Attributes:
        name: Name of the stage and of its package in ``vllm_ci.suites``.
        promised: Number of cases by function; by default from the manifest of the package.
    """

    name: str
    promised: Mapping[str, int] | None = None
    needs_server: bool = True

    def programs(self, context: StageContext) -> tuple[Program, ...]:
        """The built-in cases, and the user's own tests if the stage names any."""
        self.require_server(context)
        spec = context.spec
        programs = []
        if spec.suite:
            programs.append(self._program(context, self.name, ("--pyargs", f"vllm_ci.suites.{self.name}", *OURS_ALONE)))
        if spec.paths:
            tests = (*(f"{{in.source}}/{path}" for path in spec.paths), *USERS_OWN)
            programs.append(self._program(context, f"{self.name}-own", tests))
        return tuple(programs)

    def require_server(self, context: StageContext) -> None:
        """Check that there is a server.

        Raises:
            UsageError: There is none.
        """
        if context.service is None and not context.url:
            raise UsageError(
                f"the stage {self.name} needs a server",
                why="neither a service nor a URL was given",
                remedy="let the pipeline serve the image, or pass --url",
            )

    def options(self, context: StageContext) -> tuple[str, ...]:
        """Options of the vllm-ci plugin for pytest."""
        return options(context)

    async def result(self, context: StageContext, outcomes: Sequence[Outcome]) -> StageResult:
        """The cases of both pytest runs."""
        return await self.judged(context, outcomes)

    async def judged(self, context: StageContext, outcomes: Sequence[Outcome], extra: Sequence[Case] = ()) -> StageResult:
        """The cases of both pytest runs and those that the stage created itself."""
        names = [program.name for program in self.programs(context)]
        readings = [await self._reading(context, outcome, name) for outcome, name in zip(outcomes, names, strict=True)]
        empty = "the stage has no tests: the built-in cases are disabled, and `paths` is empty"
        result = reading.combine(self.name, outcomes, readings, extra=extra, empty=empty)
        plans = [plan for each in readings if isinstance(plan := each.facts.get("plan"), dict)]
        return _timed(result, plans[0]) if plans else result

    async def _reading(self, context: StageContext, outcome: Outcome, name: str) -> reading.Reading:
        if name != self.name:
            return await reading.read(outcome, name=name, promised=context.spec.promises)
        found = await reading.read(outcome, name=name, promised=1)
        expected = manifest.promised(self.name) if self.promised is None else self.promised
        found = promises.kept(found, self.name, expected)
        return found if context.only else promises.enough(found, self.name, context.spec.min_share)

    def _program(self, context: StageContext, name: str, tests: tuple[str, ...]) -> Program:
        own_tests = "{in.source}" in " ".join(tests)
        if own_tests and context.source is None:
            raise UsageError(
                f"the stage {self.name} names your own tests, but there is no checkout",
                remedy="run it inside the checkout, or remove `paths` from the stage",
            )
        others = own_tests or bool(context.spec.pytest_args)  # options may be those of a plugin
        return Program(
            name=name,
            argv=(
                *("python", "-m", "pytest"),
                *("-p", "vllm_ci.suites.plugin"),
                *(() if others else ("-p", "pytest_base_url.plugin")),
                *tests,
                *REPORT,
                *self.options(context),
                *context.spec.pytest_args,
            ),
            env={**QUIET, **({} if others else OURS_ONLY), **context.spec.env},
            secrets=(context.api_key_env,) if context.api_key_env else (),
            inputs={
                **({"source": context.source} if own_tests and context.source is not None else {}),
                **({"image": context.image_facts} if context.image_facts is not None else {}),
                **({"authorities": context.authorities} if context.authorities is not None else {}),
            },
            needs={"vllm": context.service} if context.service is not None else {},
            timeout_s=context.spec.timeout_s,
        )


def _timed(result: StageResult, plan: Mapping[str, object]) -> StageResult:
    """Add the plan to the result, and a message if cases were left out for time."""
    left_out = plan.get("left_out")
    count = len(left_out) if isinstance(left_out, list) else 0
    note = f"{count} cases were left out for time (budget {plan.get('budget_s'):.0f} s); run with --deep" if count else ""
    message = "\n".join(filter(None, (result.message, note)))
    return replace(result, message=message, metrics={**result.metrics, "time": dict(plan)})


def options(context: StageContext) -> tuple[str, ...]:
    """Options of the vllm-ci plugin for pytest, for a server with a URL."""
    spec = context.spec
    values = {
        "--base-url": "{url.vllm}" if context.service is not None else context.url,
        "--vllm-model": context.model,
        "--vllm-require": ",".join(spec.require),
        "--vllm-budget": f"{spec.budget_s:g}",
        "--vllm-tensor-parallel-size": str(context.tensor_parallel_size or ""),
        "--vllm-quantization": context.quantization,
        "--vllm-image-config": "{in.image}/config.json" if context.image_facts is not None else "",
        # Where the pipeline owns the server, it starts a new one; a server given by its URL may come back by itself.
        "--vllm-return": "0" if context.service is not None else "",
        **common(context),
    }
    return given(values)


def common(context: StageContext) -> dict[str, str]:
    """Options for any server."""
    accepted = [each.entry() for each in context.spec.accept]
    return {
        "--vllm-api-key-env": context.api_key_env,
        "--vllm-ca-file": CA_FILE if context.authorities is not None else "",
        "--vllm-accept": json.dumps(accepted) if accepted else "",
        "--vllm-fail-on": context.spec.fail_on,
        "--vllm-cases": ",".join(map(case_id, context.only)),
        **identity(context),
    }


def given(values: Mapping[str, str]) -> tuple[str, ...]:
    """The options that have a value, as arguments."""
    return tuple(f"{name}={value}" for name, value in values.items() if value)


def identity(context: StageContext) -> dict[str, str]:
    """The commit and the image that a report is about."""
    return {
        "--vllm-commit": context.commit.sha if context.commit else "",
        "--vllm-image-digest": context.image.digest if context.image else "",
    }
