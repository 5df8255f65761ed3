"""Converts a report to CTRF (Common Test Report Format, specification 1.0.0), for dashboards."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from vllm_ci import __version__
from vllm_ci.domain.causes import causes_of_report
from vllm_ci.domain.refs import short
from vllm_ci.domain.report import Case, CaseStatus, Report, StageResult, Verdict
from vllm_ci.report.causes import CausesOfCases, brief, to_json

# CTRF has no "errored"; it becomes "failed", so that a missing verdict is not overlooked. "inconclusive" becomes "other".
_STATUS = {
    CaseStatus.PASSED: "passed",
    CaseStatus.FAILED: "failed",
    CaseStatus.ERRORED: "failed",
    CaseStatus.SKIPPED: "skipped",
    CaseStatus.INCONCLUSIVE: "other",
}


def from_report(report: Report) -> dict[str, Any]:
    """The report as a CTRF document; ``rawStatus`` is the status in our report, ``extra.cause`` the cause of a result."""
    causes = causes_of_report(report)
    known = CausesOfCases(causes)
    tests = [_test(stage, case, known) for stage in suites_of(report) for case in cases_of(stage)]
    start = int(datetime.fromisoformat(report.started_at).timestamp() * 1000) if report.started_at else 0
    counts = {status: sum(test["status"] == status for test in tests) for status in ("passed", "failed", "skipped", "other")}
    return {
        "reportFormat": "CTRF",
        "specVersion": "1.0.0",
        "generatedBy": f"vllm-ci {__version__}",
        "results": {
            "tool": {"name": "vllm-ci", "version": __version__},
            "summary": {
                "tests": len(tests),
                **counts,
                "pending": 0,
                "suites": len(suites_of(report)),
                "start": start,
                "stop": start + round(report.seconds * 1000),
                "extra": {"causes": [to_json(cause) for cause in causes]},
            },
            "tests": tests,
            "environment": _environment(report),
        },
    }


def suites_of(report: Report) -> tuple[StageResult, ...]:
    """Stages of a report, each with its own message; a problem that kept stages from running becomes an extra first stage."""
    stages = tuple(replace(stage, message=report.own_message(stage)) for stage in report.stages)
    problem = report.problem
    if problem is None:
        return stages
    parts = (("", problem.line), ("why: ", problem.explanation), ("do: ", problem.change), ("log: ", problem.log))
    details = "\n".join(f"{label}{text}" for label, text in parts if text)
    case = Case(name=problem.step, status=CaseStatus.ERRORED, message=problem.line, details=details)
    return (StageResult(name="run", verdict=Verdict.ERRORED, seconds=0.0, cases=(case,)), *stages)


def cases_of(stage: StageResult) -> tuple[Case, ...]:
    """Cases of a stage, plus a case for the stage itself if its verdict is worse than those of its cases."""
    bad = (CaseStatus.FAILED, CaseStatus.ERRORED, CaseStatus.INCONCLUSIVE)
    if stage.verdict is Verdict.PASSED or any(case.status in bad for case in stage.cases):
        return stage.cases
    whole = Case(name=stage.name, status=CaseStatus(stage.verdict.value), message=stage.message)
    return (*stage.cases, whole)


def identity(report: Report) -> dict[str, str]:
    """Commit, image and engine of a report; unknown values are left out."""
    known = {
        "commit": report.commit.sha if report.commit else "",
        "image_digest": report.image.digest if report.image else "",
        "engine": report.engine,
        "double": "true" if report.double else "",
    }
    return {name: value for name, value in known.items() if value}


def _test(stage: StageResult, case: Case, known: CausesOfCases) -> dict[str, Any]:
    causes = known.of(stage, case)
    extra: dict[str, Any] = dict(case.properties) if not causes else {**case.properties, "cause": brief(causes[0])}
    if len(causes) > 1:
        extra["other_causes"] = [cause.id for cause in causes[1:]]
    optional = {"message": case.message, "trace": case.details, "extra": extra}
    return {
        "name": case.name,
        "status": _STATUS[case.status],
        "rawStatus": case.status.value,
        "duration": round(case.seconds * 1000),
        "suite": [stage.name],
        "type": stage.name,
        **{name: value for name, value in optional.items() if value},
    }


def _environment(report: Report) -> dict[str, Any]:
    known = {
        "commit": report.commit.sha if report.commit else "",
        "branchName": short(report.commit.ref) if report.commit else "",
        "repositoryUrl": report.commit.source if report.commit else "",
    }
    environment: dict[str, Any] = {name: value for name, value in known.items() if value}
    environment["extra"] = identity(report)
    return environment
