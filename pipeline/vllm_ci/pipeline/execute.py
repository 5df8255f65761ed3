"""Run a pipeline function and always produce a report, whatever it raises."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

from vllm_ci.domain.errors import ErroredError, UsageError, VllmCiError
from vllm_ci.domain.report import Case, CaseStatus, Report, StageResult, Verdict
from vllm_ci.pipeline.api import Pipeline
from vllm_ci.pipeline.errors import PipelineError, misuse
from vllm_ci.pipeline.record import RunResult
from vllm_ci.stages import user_code

Function = Callable[[Pipeline], Awaitable[Report]]
"""A pipeline: ``async def pipeline(ci: Pipeline) -> Report``."""
STEP = "pipeline"


async def execute(ci: Pipeline, function: Function) -> RunResult:
    """Run a pipeline; errors that it raises are part of the report, with the line of the user's code.

    A failed ``assert`` is a failed row ``pipeline``; any other error is the run's problem.

    Args:
        ci: Passed to the pipeline.
        function: The pipeline.

    Raises:
        ConfigError: The configuration cannot be built.
    """
    try:
        returned = await function(ci)
        ci.calls.check()
        _check(ci, returned, function)
        _check_tested(ci, function)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - distinguished below
        _note_refused(ci)
        for each in user_code.leaves(error):
            _note(ci, each)
        with contextlib.suppress(
            PipelineError
        ):  # closes coroutines that were never awaited; the first error is the one that counts
            ci.calls.check()
    else:
        _note_refused(ci)
    return ci.record.run()


def _note_refused(ci: Pipeline) -> None:
    """Take down the calls that could not work, also those whose errors the pipeline caught."""
    for error in ci.calls.refused:
        ci.record.failed(STEP, error)


def _note(ci: Pipeline, error: Exception | SystemExit) -> None:
    if ci.notes.has(error) or any(error is each for each in ci.calls.refused):
        return
    if isinstance(error, UsageError):
        raise error
    if isinstance(error, AssertionError):
        _failed(ci, error)
    elif isinstance(error, PipelineError):
        ci.record.failed(STEP, error)
    elif isinstance(error, VllmCiError):
        ci.record.failed(STEP if user_code.place(error) else "engine", _placed(error))
    elif user_code.place(error) or isinstance(error, SystemExit):
        ci.record.failed(STEP, foreign(error))
    else:  # a bug in vllm-ci
        raise error


def _failed(ci: Pipeline, error: AssertionError) -> None:
    message = f"{user_code.place(error)}: {user_code.words(error)}"
    case = Case(name=STEP, status=CaseStatus.FAILED, message=message, details=user_code.trace(error))
    ci.record.add(StageResult(name=STEP, verdict=Verdict.FAILED, seconds=0.0, cases=(case,), message=message))


def _placed(error: VllmCiError) -> ErroredError:
    """A vllm-ci error that passed through user code, with the line."""
    where = user_code.place(error)
    message = f"{where}: {error.message}" if where else error.message
    log = error.log if isinstance(error, ErroredError) else ""
    return ErroredError(message, why=error.why, remedy=error.remedy, log=log)


def foreign(error: BaseException) -> ErroredError:
    """Convert an error of user code, with its line; ``sys.exit`` counts as one, so it cannot end a run with success."""
    where = user_code.place(error)
    return ErroredError(
        f"{where}: {user_code.words(error)}" if where else user_code.words(error),
        why="the pipeline code raised this error, so the remaining steps did not run",
        remedy="fix that line and run again; the log has the full traceback",
        log=user_code.trace(error),
    )


def _check(ci: Pipeline, returned: object, function: Function) -> None:
    """Check that the pipeline returned its report.

    Raises:
        PipelineError: It returned something else.
    """
    if ci.issued(returned):
        return
    found = "nothing" if returned is None else f"a {type(returned).__name__}"
    if isinstance(returned, Report):
        found = "a report that was not created by ci.report()"
    raise misuse(
        f"the pipeline returned {found}",
        why="a pipeline must return the report of its run",
        remedy="end it with `return ci.report()`",
        at=user_code.defined_at(function),
    )


def _check_tested(ci: Pipeline, function: Function) -> None:
    """Check that something was tested.

    Raises:
        PipelineError: No stage was run.
    """
    if not ci.record.rows and ci.record.problem is None:
        raise misuse(
            "the pipeline ran no stage",
            why="without a stage, nothing about the commit was tested",
            remedy="call ci.test() in it, or enable a stage in vllm-ci.yaml",
            at=user_code.defined_at(function),
        )
