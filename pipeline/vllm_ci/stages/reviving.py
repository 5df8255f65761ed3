"""Go on with a stage after its server died: on a new server, with the cases that were not run. Pure functions.

The case that was running when the server died is run again as well. If the server dies again, the case ends it, and fails. If
not, it was ended from outside or by something that does not repeat: one such death is ``errored``, a second one is a fact about
the server, and fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from vllm_ci.domain.report import Case, CaseStatus, StageResult, Verdict, verdict_of
from vllm_ci.suites.ends import CUT, DIED, GONE, HANGS, NOT_BEGUN, UNREACHABLE

MOST_SERVERS = 6
"""Servers that are started for one stage, including the first one."""
_BEFORE = "the server died while it was asked what it can do, before the first case"


def cause_of(case: Case) -> str:
    """Id of the cause that the suite recorded for a case; empty if none."""
    cause = case.properties.get("cause")
    return str(cause.get("id", "")) if isinstance(cause, Mapping) else ""


def ended_it(case: Case) -> bool:
    """Whether the server died or hung during a case."""
    return cause_of(case) in (DIED, HANGS)


def to_repeat(result: StageResult, repeated: Iterable[str] = ()) -> tuple[str, ...]:
    """Names of the cases to run on a new server: those not run, and the one during which the server died.

    Args:
        result: The result so far.
        repeated: Cases that have been repeated already, and are not repeated again.
    """
    done = set(repeated)
    return tuple(
        case.name
        for case in result.cases
        if cause_of(case) == GONE or (ended_it(case) and case.status is CaseStatus.FAILED and case.name not in done)
    )


def noticed(result: StageResult) -> bool:
    """Whether the suite noticed that the server died."""
    return any(ended_it(case) or cause_of(case) == GONE for case in result.cases)


def without_server(result: StageResult, message: str) -> StageResult:
    """The result of a stage whose server died, where the suite itself may have noticed or not.

    A suite that knew the server says in which case it died. Where the server was gone before the suite knew what it can do, it
    died in the first case; where the suite was stopped, in the case that was running. The others that were not run are left for
    a new server, so that each death is judged in the same way.

    Args:
        result: The result.
        message: How the server died.
    """
    lost = [case for case in result.cases if cause_of(case) in (UNREACHABLE, CUT, NOT_BEGUN)]
    if not lost:
        return result
    known = any(ended_it(case) for case in result.cases)
    begun = [case for case in lost if cause_of(case) == CUT]
    unasked = [case for case in lost if cause_of(case) == UNREACHABLE]
    ended = None if known else (unasked or begun or lost)[0].name
    said = _BEFORE if unasked else "the server died while this case was running"
    names = {case.name for case in lost}
    cases = tuple(
        _ended(case, said, message) if case.name == ended else _not_run(case) if case.name in names else case
        for case in result.cases
    )
    verdict, _ = verdict_of(cases)
    return replace(result, verdict=verdict, message=message, cases=cases)


def _ended(case: Case, said: str, message: str) -> Case:
    where = "first-request" if said == _BEFORE else case.name.rpartition("::")[2]
    return replace(
        case,
        status=CaseStatus.FAILED,
        message=said,
        details="\n".join(filter(None, (message, case.details))),
        properties={
            **case.properties,
            "cause": {"id": DIED, "title": said, "severity": "critical"},
            "findings": [{"id": f"{DIED}:{where}", "severity": "critical", "message": said}],
        },
    )


def _not_run(case: Case) -> Case:
    return replace(case, properties={**case.properties, "cause": {"id": GONE}})


def told(result: StageResult, servers: int) -> str:
    """The message of a stage that ran on several servers."""
    during = ", ".join(case.name for case in result.cases if ended_it(case))
    again = "once" if servers == 2 else f"{servers - 1} times"
    return "\n".join(filter(None, (result.message, f"the server died or hung during {during}, and was started again {again}")))


def merged(first: StageResult, second: StageResult) -> StageResult:
    """The result of both runs; a case that the second one ran has the status that it had there."""
    again = {case.name: case for case in second.cases if case.name in to_repeat(first)}
    cases = tuple(_merged(case, again.pop(case.name, None)) for case in first.cases)
    cases = _judged((*cases, *again.values()))
    verdict, message = verdict_of(cases)
    unreliable = second.verdict is Verdict.ERRORED and not any(case.status is CaseStatus.ERRORED for case in second.cases)
    if unreliable:
        verdict, message = Verdict.worst((verdict, Verdict.ERRORED)), second.message
    return replace(
        first,
        verdict=verdict,
        message=message,
        cases=cases,
        seconds=first.seconds + second.seconds,
        log="\n".join(filter(None, (first.log, second.log))),
        facts={**second.facts, **first.facts},
        metrics={**second.metrics, **first.metrics},
    )


def _merged(case: Case, again: Case | None) -> Case:
    if again is None:
        return case
    if not ended_it(case) or ended_it(again):
        return again
    # It did not die this time. How it died stays in the report.
    return replace(case, properties={**case.properties, "repeated": str(again.status)})


def _judged(cases: tuple[Case, ...]) -> tuple[Case, ...]:
    """One death that did not repeat is errored; several are failed."""
    once = [case.name for case in cases if ended_it(case) and "repeated" in case.properties]
    deaths = sum(ended_it(case) for case in cases)
    return tuple(_doubtful(case) if deaths == 1 and case.name in once else case for case in cases)


def _doubtful(case: Case) -> Case:
    said = (
        f"{case.message}; that did not happen again when the case was repeated on a new server ({case.properties['repeated']})"
    )
    findings = {key: value for key, value in case.properties.items() if key != "findings"}
    return replace(case, status=CaseStatus.ERRORED, message=said, properties=findings)
