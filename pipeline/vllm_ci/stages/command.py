"""A command as a stage with one case: the exit code decides, and the end of the log is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from vllm_ci.domain.program import Outcome, Program
from vllm_ci.domain.report import Case, CaseStatus, StageResult, verdict_of
from vllm_ci.domain.stage import OwnStage
from vllm_ci.programs import FOLDER as PROGRAMS
from vllm_ci.stages import reading
from vllm_ci.stages.stage import StageContext
from vllm_ci.stages.targets import needs, variables

# As in a shell: not executable, and not found. In both cases nothing was checked.
_NOT_STARTED = (126, 127)


@dataclass(frozen=True, kw_only=True)
class CommandStage:
    """Runs a command in the project's directory.

    Attributes:
        name: Name of the stage.
        own: The command, where it runs, and what it needs.
    """

    name: str
    own: OwnStage

    @property
    def needs_server(self) -> bool:
        """Whether the configuration asks for a server."""
        return self.own.needs_server

    def programs(self, context: StageContext) -> tuple[Program, ...]:
        """The command.

        Raises:
            UsageError: A required server, image or checkout is missing.
        """
        needs(self.name, self.own, context)
        env, secrets = variables(self.own, context)
        return (
            Program(
                name=self.name,
                argv=in_folder("{in.source}", self.own.run),
                env={"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", **env, **context.spec.env},
                secrets=secrets,
                image=context.image if self.own.inside else None,
                inputs={
                    **({"source": context.source} if context.source is not None else {}),
                    **({"authorities": context.authorities} if context.authorities is not None else {}),
                },
                needs={"vllm": context.service} if self.own.needs_server and context.service is not None else {},
                timeout_s=context.spec.timeout_s,
            ),
        )

    async def result(self, context: StageContext, outcomes: Sequence[Outcome]) -> StageResult:
        """One case for the command."""
        cases = tuple(case_of(outcome, name=" ".join(self.own.run)) for outcome in outcomes)
        verdict, message = verdict_of(cases, promised=context.spec.promises)
        return StageResult(
            name=self.name,
            verdict=verdict,
            seconds=round(sum(outcome.seconds for outcome in outcomes), 3),
            cases=cases,
            message=message,
            log="\n".join(outcome.log for outcome in outcomes),
        )


def in_folder(folder: str, argv: Sequence[str]) -> tuple[str, ...]:
    """The command line that runs ``argv`` in the directory ``folder``."""
    return ("python", "-c", _launcher(), folder, *argv)


@cache
def _launcher() -> str:
    return (PROGRAMS / "in_folder.py").read_text(encoding="utf-8")


def case_of(outcome: Outcome, *, name: str) -> Case:
    """Convert an outcome to a case: exit code 0 passed, others failed, errored if the program could not run to its end."""
    status = CaseStatus.PASSED
    if not outcome:
        unknown = outcome.timed_out or outcome.stopped or outcome.exit_code > 128 or outcome.exit_code in _NOT_STARTED
        status = CaseStatus.ERRORED if unknown else CaseStatus.FAILED
    return Case(
        name=name,
        status=status,
        seconds=round(outcome.seconds, 3),
        message="" if outcome else _message(outcome),
        details="" if outcome else reading.tail(outcome.log),
        properties={"exit_code": outcome.exit_code},
    )


def _message(outcome: Outcome) -> str:
    ended = reading.how_it_ended(outcome)
    last = reading.tail(outcome.log, 1).strip()
    return f"{ended}: {last}" if last else ended
