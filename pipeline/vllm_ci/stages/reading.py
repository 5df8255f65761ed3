"""Convert a program's output to cases: a missing or incomplete report is an error, never a pass."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from vllm_ci.domain.program import Outcome
from vllm_ci.domain.report import Case, CaseStatus, StageResult, Verdict, verdict_of
from vllm_ci.stages.distribution import distributions
from vllm_ci.suites.ends import CUT, NOT_BEGUN

_TAIL_LINES = 20
_ENDED_WELL = (0, 1)  # pytest: all passed, some failed


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The report of one program.

    Attributes:
        cases: Cases in run order.
        trouble: Why the report is unreliable as a whole; empty if it is not.
        facts: Facts about the session that fixtures recorded.
    """

    cases: tuple[Case, ...] = ()
    trouble: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


async def read(outcome: Outcome, *, name: str, promised: int) -> Reading:
    """Read the cases of a program that ran pytest with the vllm-ci reporter."""
    try:
        document = json.loads(await outcome.output.read("cases.json"))
        cases = tuple(_case(entry) for entry in document["cases"])
        facts = dict(document["session"])
        collected = int(document["collected"])
    except FileNotFoundError:
        cases, facts = await _unfinished(outcome)
        return Reading(cases=cases, trouble=f"{name} {how_it_ended(outcome)}\n{tail(outcome.log)}".rstrip(), facts=facts)
    except (ValueError, KeyError, TypeError) as error:
        return Reading(trouble=f"{name} wrote an invalid report: {error!r}\n{tail(outcome.log)}")
    return Reading(cases=cases, trouble=_doubt(outcome, cases, collected, name=name, promised=promised), facts=facts)


def combine(
    name: str, outcomes: Sequence[Outcome], readings: Sequence[Reading], *, extra: Iterable[Case] = (), empty: str = ""
) -> StageResult:
    """Combine the reports of a stage; an unreliable report makes it ``errored`` unless a case failed.

    Args:
        name: Name of the stage.
        outcomes: Outcomes of the programs.
        readings: Their reports.
        extra: Cases that the stage created itself.
        empty: Message if there was nothing to run.
    """
    cases = (*(case for reading in readings for case in reading.cases), *extra)
    verdict, message = verdict_of(cases)
    troubles = [reading.trouble for reading in readings if reading.trouble] or ([empty] if empty and not cases else [])
    if troubles:
        verdict = Verdict.worst((verdict, Verdict.ERRORED))
        message = "\n".join([*troubles, *([message] if verdict is Verdict.FAILED else [])])
    return StageResult(
        name=name,
        verdict=verdict,
        seconds=round(sum(outcome.seconds for outcome in outcomes), 3),
        cases=cases,
        message=message,
        metrics=_metrics(name, cases, readings),
        log="\n".join(outcome.log for outcome in outcomes),
        facts={key: value for reading in readings for key, value in dict(reading.facts.get("server") or {}).items()},
    )


def _metrics(name: str, cases: Sequence[Case], readings: Sequence[Reading]) -> dict[str, object]:
    """Metrics that the suite recorded under the stage's name, otherwise distributions of the values of its cases."""
    noted = [figures for reading in readings if isinstance(figures := reading.facts.get(name), dict)]
    return {key: value for figures in noted for key, value in figures.items()} or distributions(cases)


def tail(log: str, lines: int = _TAIL_LINES) -> str:
    """The end of a log, for a message."""
    return "\n".join(log.rstrip().splitlines()[-lines:])


def _case(entry: Mapping[str, Any]) -> Case:
    return Case(
        name=str(entry["name"]),
        status=CaseStatus(entry["status"]),
        seconds=float(entry["seconds"]),
        message=str(entry["message"]),
        details=str(entry["details"]),
        properties=dict(entry["properties"]),
    )


def _doubt(outcome: Outcome, cases: tuple[Case, ...], collected: int, *, name: str, promised: int) -> str:
    if outcome.timed_out or outcome.stopped:
        return f"{name} {how_it_ended(outcome)}"
    bad = any(case.status not in (CaseStatus.PASSED, CaseStatus.SKIPPED) for case in cases)
    if outcome.exit_code not in _ENDED_WELL and not bad:
        return f"{name} {how_it_ended(outcome)}\n{tail(outcome.log)}"
    if outcome.exit_code == 1 and not bad:
        return f"{name} ended with exit code 1, but no case failed\n{tail(outcome.log)}"
    if len(cases) < collected:
        return f"{name} stopped early: {len(cases)} of {collected} cases ran"
    if len(cases) < promised:
        return f"{name} ran {len(cases)} cases, but at least {promised} are required (promises)"
    return ""


def how_it_ended(outcome: Outcome) -> str:
    """How a program ended, as a predicate of a sentence."""
    if outcome.timed_out:
        return f"timed out after {outcome.seconds:.0f} s"
    if outcome.stopped:
        return f"was stopped after {outcome.seconds:.0f} s"
    if outcome.exit_code > 128:
        return f"was killed by signal {outcome.exit_code - 128}"
    return f"ended with exit code {outcome.exit_code}"


async def _unfinished(outcome: Outcome) -> tuple[tuple[Case, ...], dict[str, Any]]:
    """Partial results of a program that did not finish, and recorded facts.

    The cases are the finished ones, the running one, and where the program was stopped, those that had not begun.
    """
    try:
        lines = (await outcome.output.read("cases.jsonl")).decode(errors="replace").split("\n")
    except FileNotFoundError:
        return (), {}
    facts: dict[str, Any] = {}
    finished: dict[str, Case] = {}
    collected: list[str] = []
    running = ""
    for entry in _entries(lines):
        if "case" in entry:
            case = _case(entry["case"])
            finished[case.name] = case
            running = ""
        facts = dict(entry.get("session", facts))
        running = entry.get("running", running)
        collected = entry.get("collected", collected)
    how = how_it_ended(outcome)
    if running and running not in finished:
        finished[running] = _ended_with(running, f"was running when the program {how}", CUT)
    if outcome.stopped:
        for name in collected:
            finished.setdefault(name, _ended_with(name, f"had not begun when the program {how}", NOT_BEGUN))
    return tuple(finished.values()), facts


def _entries(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        with suppress(ValueError):  # an incomplete last line
            yield json.loads(line)


def _ended_with(name: str, message: str, cause: str) -> Case:
    return Case(name=name, status=CaseStatus.ERRORED, message=message, properties={"cause": {"id": cause}})
