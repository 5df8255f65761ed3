"""Removes secrets from a report before it is displayed or written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from vllm_ci.domain.report import Case, Problem, Report, StageResult

HIDDEN = "***"


def of_text(text: str, secrets: Iterable[str]) -> str:
    """``text`` with every secret replaced by ``***``."""
    for value in sorted(secrets, key=len, reverse=True):
        if value:
            text = text.replace(value, HIDDEN)
            # The secret escaped as in a JSON string.
            for ascii_only in (True, False):
                text = text.replace(json.dumps(value, ensure_ascii=ascii_only)[1:-1], HIDDEN)
    return text


def redacted(report: Report, secrets: Iterable[str]) -> Report:
    """The report with every secret replaced by ``***`` in all output of programs; verdicts and names of stages stay."""
    hidden = tuple(secret for secret in secrets if secret)
    if not hidden:
        return report
    return replace(
        report,
        hardware=_value(report.hardware, hidden),
        server=_value(report.server, hidden),
        skipped=_value(report.skipped, hidden),
        stages=tuple(_stage(stage, hidden) for stage in report.stages),
        problem=_problem(report.problem, hidden) if report.problem else None,
    )


def _stage(stage: StageResult, hidden: tuple[str, ...]) -> StageResult:
    return replace(
        stage,
        message=of_text(stage.message, hidden),
        log=of_text(stage.log, hidden),
        metrics=_value(stage.metrics, hidden),
        facts=_value(stage.facts, hidden),
        cases=tuple(_case(case, hidden) for case in stage.cases),
    )


def _case(case: Case, hidden: tuple[str, ...]) -> Case:
    return replace(
        case,
        name=of_text(case.name, hidden),  # a parametrized test has its parameters in it
        message=of_text(case.message, hidden),
        details=of_text(case.details, hidden),
        properties=_value(case.properties, hidden),
    )


def _problem(problem: Problem, hidden: tuple[str, ...]) -> Problem:
    texts = {each.name: of_text(getattr(problem, each.name), hidden) for each in fields(problem) if each.name != "step"}
    return replace(problem, **texts)


def _value(value: Any, hidden: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        return of_text(value, hidden)
    if isinstance(value, Mapping):
        return {of_text(str(key), hidden): _value(inner, hidden) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_value(inner, hidden) for inner in value]
    # Anything else is written as its text.
    return value if value is None or isinstance(value, bool | int | float) else of_text(str(value), hidden)
