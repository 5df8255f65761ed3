"""Reads and writes reports as JSON (``report.json``). Schemas: ``schema/report.schema.json``, ``schema/run.schema.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter

from vllm_ci.domain.causes import causes_of_report, skips_of
from vllm_ci.domain.errors import ConfigError
from vllm_ci.domain.plain import one_line
from vllm_ci.domain.report import CaseStatus, Report, StageResult, Verdict
from vllm_ci.performance import matrix
from vllm_ci.report.causes import skip_to_json
from vllm_ci.report.causes import to_json as cause_to_json

FORMAT = "vllm-ci/report/v1"
# What follows from the stages: written for readers of the file, and computed again when it is read. Files of earlier versions
# do not have it.
_DERIVED = ("causes", "skips")

LARGEST = 10**15
"""Of any figure of a report, in seconds, milliseconds or bytes: a petabyte, 30 thousand years."""

_ADAPTER: TypeAdapter[Report] = TypeAdapter(Report)


def to_json(report: Report) -> dict[str, Any]:
    """The report as plain data, including its format, verdict, causes and reasons of skipped cases."""
    return {"format": FORMAT, "verdict": report.verdict.value, **_derived(report), **asdict(report)}


def from_json(data: Mapping[str, Any], *, name: str = "the report") -> Report:
    """Parse a report written by :func:`to_json`.

    Raises:
        ConfigError: It has another format, is not valid, or its verdict does not match its stages.
    """
    fields = dict(data) if isinstance(data, Mapping) else {}
    if fields.pop("format", None) != FORMAT:
        raise ConfigError(f"{name} does not have the format {FORMAT}", remedy="name the folder of a run, or its report.json")
    stated = fields.pop("verdict", None)
    for derived in _DERIVED:
        fields.pop(derived, None)
    try:
        report = _ADAPTER.validate_python(fields)
    except ValueError as error:
        raise ConfigError(f"{name} is not valid", why=str(error), remedy="run the stages again") from error
    if odd := _odd(report):
        raise ConfigError(f"{name} is not valid", why=f"{odd} is no duration or size", remedy="run the stages again")
    if stated != report.verdict.value:
        raise ConfigError(
            f"{name} has the verdict {stated}, but its stages give {report.verdict.value}",
            why="it was edited or truncated",
            remedy="run the stages again",
        )
    return report


def summary(report: Report, report_dir: str) -> dict[str, Any]:
    """The output of ``vllm-ci run --json``.

    It has ``problem`` if something kept stages from running, and ``matrix`` if servers were measured side by side.
    """
    commit, image = report.commit, report.image
    return {
        "verdict": report.verdict.value,
        "commit": {"sha": commit.sha, "dirty": commit.dirty} if commit else None,
        "image": {"reference": image.reference, "digest": image.digest} if image else None,
        "model": asdict(report.model) if report.model else None,
        "engine": report.engine,
        "seconds": report.seconds,
        "report_dir": report_dir,
        **_derived(report),
        "stages": [_stage(stage) for stage in report.stages],
        **({"matrix": [row.to_json() for row in rows]} if (rows := matrix.rows(report.stages)) else {}),
        **({"problem": asdict(report.problem)} if report.problem is not None else {}),
    }


def _odd(report: Report) -> str:
    """The first duration or size that nothing can have, which no view could show; empty if there is none."""
    stages = [(f"seconds of stage {stage.name}", stage.seconds) for stage in report.stages]
    cases = [(f"seconds of {case.name}", case.seconds) for stage in report.stages for case in stage.cases]
    steps = [(f"seconds of {step}", value) for steps in (report.timings, report.begun) for step, value in steps.items()]
    layers = [(f"size_bytes of layer {layer.tier}", layer.size_bytes) for layer in report.layers]
    found = [("seconds", report.seconds), *stages, *cases, *steps, *layers]
    return next((one_line(name, 200) for name, value in found if not abs(value) <= LARGEST), "")  # not: NaN compares as false


def _derived(report: Report) -> dict[str, Any]:
    return {
        "causes": [cause_to_json(cause) for cause in causes_of_report(report)],
        "skips": [skip_to_json(skip) for skip in skips_of(report.stages)],
    }


def _stage(stage: StageResult) -> dict[str, Any]:
    bad = (CaseStatus.FAILED, CaseStatus.ERRORED)
    failures = [{"case": case.name, "message": case.message} for case in stage.cases if case.status in bad]
    # An error of the stage itself (such as a dead server) does not belong to any of its cases.
    if stage.message and (not failures or stage.verdict is Verdict.ERRORED):
        failures.append({"case": "", "message": stage.message})
    return {
        "name": stage.name,
        "verdict": stage.verdict.value,
        "seconds": stage.seconds,
        "cases": {status.value: stage.count(status) for status in CaseStatus},
        "failures": failures,
    }
