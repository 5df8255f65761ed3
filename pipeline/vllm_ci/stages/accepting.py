"""Results that a user's own stage returned: checked before they are kept, as all reports are written from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vllm_ci.domain.errors import EngineError
from vllm_ci.domain.report import Case, CaseStatus, StageResult, Verdict, verdict_of
from vllm_ci.stages.user_code import printable


def accepted(result: object, *, name: str, promised: int) -> StageResult:
    """The result with values that reports can hold, and with a verdict that is not better than that of its cases.

    Args:
        result: What the stage returned.
        name: The stage's.
        promised: Least number of its cases.

    Raises:
        EngineError: It is no result, or a value in it has the wrong type.
    """
    if not isinstance(result, StageResult):
        raise EngineError(
            f"the stage {name} returned {type(result).__name__} in place of a StageResult",
            remedy="return one from its method result() (docs/api.md)",
        )
    try:
        plain = replace(
            result,
            verdict=Verdict(result.verdict),
            seconds=_seconds(result.seconds),
            cases=tuple(_case(case) for case in result.cases),
            message=_text(result.message),
            log=_text(result.log),
            metrics=_plain(result.metrics),
            facts=_plain(result.facts),
        )
    except (TypeError, ValueError) as error:
        raise EngineError(
            f"the stage {name} returned a result that no report can hold",
            why=printable(str(error)),
            remedy="give every value the type that docs/api-reference.md says, e.g. CaseStatus.PASSED as the status of a case",
        ) from error
    return honest(plain, promised=promised)


def honest(result: StageResult, *, promised: int = 1) -> StageResult:
    """A stage passes only if its cases do, and if there are as many as promised, whatever verdict it gives itself."""
    if result.verdict is not Verdict.PASSED:
        return result
    if not result.cases:
        return replace(result, verdict=Verdict.ERRORED, message="no case ran: nothing was checked")
    verdict, message = verdict_of(result.cases, promised=promised)
    return result if verdict is Verdict.PASSED else replace(result, verdict=verdict, message=message)


def _case(case: object) -> Case:
    if not isinstance(case, Case):
        raise TypeError(f"{case!r:.60} is no Case")
    return replace(
        case,
        name=_text(case.name),
        status=CaseStatus(case.status),
        seconds=_seconds(case.seconds),
        message=_text(case.message),
        details=_text(case.details),
        properties=_plain(case.properties),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.60} is no text")
    return printable(value)


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{value!r:.60} is no number of seconds")
    return value


def _plain(value: Any) -> Any:
    """A value as JSON has it; what JSON has no type for is kept as text."""
    if isinstance(value, Mapping):
        return {printable(str(key)): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return printable(str(value))
