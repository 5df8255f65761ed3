"""From what a program left behind to cases: a missing or short report is an error, never a pass."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm_ci.domain.program import Outcome
from vllm_ci.domain.report import Case, CaseStatus, StageResult, Verdict, verdict_of
from vllm_ci.stages.distribution import distributions

_TAIL_LINES = 20
_ENDED_WELL = (0, 1)  # pytest: all passed, some failed


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one program reported.

    Attributes:
        cases: In the order they ran.
        trouble: Why the report cannot be trusted as a whole; empty when it can.
        facts: What its fixtures noted about the session.
    """

    cases: tuple[Case, ...] = ()
    trouble: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


async def read(outcome: Outcome, *, name: str, promised: int) -> Reading:
    """Cases of a program that ran pytest with our reporter."""
    try:
        document = json.loads(await outcome.output.read("cases.json"))
        cases = tuple(_case(entry) for entry in document["cases"])
        facts = dict(document["session"])
        collected = int(document["collected"])
    except FileNotFoundError:
        cases, facts = await _unfinished(outcome)
        return Reading(cases=cases, trouble=f"{name} {how_it_ended(outcome)}\n{tail(outcome.log)}".rstrip(), facts=facts)
    except (ValueError, KeyError, TypeError) as error:
        return Reading(trouble=f"{name} wrote a report that cannot be read: {error!r}\n{tail(outcome.log)}")
    return Reading(cases=cases, trouble=_doubt(outcome, cases, collected, name=name, promised=promised), facts=facts)


def combine(
    name: str, outcomes: Sequence[Outcome], readings: Sequence[Reading], *, extra: Iterable[Case] = (), empty: str = ""
) -> StageResult:
    """One result of all programs of a stage; trouble makes it ``errored`` unless something failed.

    Args:
        name: The stage's.
        outcomes: How the programs ended.
        readings: What each reported.
        extra: Cases that the stage judged itself.
        empty: What to say when there was nothing to run.
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
    """Figures that the suite noted under the stage's name, else the distributions of what its cases recorded."""
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
        return f"{name} ended with exit code 1 though no case failed\n{tail(outcome.log)}"
    if len(cases) < collected:
        return f"{name} stopped early: {len(cases)} of {collected} cases ran"
    if len(cases) < promised:
        return f"{name} ran {len(cases)} cases, {promised} were promised"
    return ""


def how_it_ended(outcome: Outcome) -> str:
    """How a program ended, as the end of a sentence."""
    if outcome.timed_out:
        return f"was ended after {outcome.seconds:.0f} s: its time ran out"
    if outcome.stopped:
        return f"was stopped after {outcome.seconds:.0f} s"
    if outcome.exit_code > 128:
        return f"was killed by signal {outcome.exit_code - 128}"
    return f"ended with exit code {outcome.exit_code}"


async def _unfinished(outcome: Outcome) -> tuple[tuple[Case, ...], dict[str, Any]]:
    """What a run left that did not come back: the cases it finished, the one that was running, and the facts it noted."""
    try:
        lines = (await outcome.output.read("cases.jsonl")).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return (), {}
    facts: dict[str, Any] = {}
    finished: dict[str, Case] = {}
    running = ""
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:  # the line that was being written
            continue
        if "case" in entry:
            case = _case(entry["case"])
            finished[case.name] = case
            running = ""
        elif "session" in entry:
            facts = dict(entry["session"])
        elif "running" in entry:
            running = entry["running"]
    if running and running not in finished:
        message = f"was running when the program {how_it_ended(outcome)}"
        finished[running] = Case(name=running, status=CaseStatus.ERRORED, message=message)
    return tuple(finished.values()), facts
