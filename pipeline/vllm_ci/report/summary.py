"""The result of a run as Markdown, for the summary of a job, and as ``name=value`` lines, for the steps after it."""

from __future__ import annotations

from vllm_ci.domain.causes import Cause, causes_of_report, headline
from vllm_ci.domain.report import CaseStatus, Report
from vllm_ci.report.html import seconds
from vllm_ci.report.markdown import code

_MOST_CAUSES = 15
_SHOWN = (CaseStatus.PASSED, CaseStatus.FAILED, CaseStatus.ERRORED, CaseStatus.SKIPPED, CaseStatus.INCONCLUSIVE)


def markdown(report: Report) -> str:
    """Verdict, causes, stages, commit and digest. Text of others is only in code spans."""
    causes = causes_of_report(report)
    result = headline(causes, sum(len(stage.cases) for stage in report.stages))
    lines = [f"### vllm-ci: {report.verdict.value}" + (f", {result}" if result else ""), ""]
    if report.problem is not None:
        lines += [f"{code(report.problem.summary)}: {code(report.problem.cause, 500)}", ""]
    lines += [_cause(cause) for cause in causes[:_MOST_CAUSES]]
    lines += [f"- and {len(causes) - _MOST_CAUSES} more"] if len(causes) > _MOST_CAUSES else []
    lines += ["", f"| stage | verdict | {' | '.join(_SHOWN)} | time |", f"|---|---|{'--:|' * (len(_SHOWN) + 1)}"]
    for stage in report.stages:
        counts = " | ".join(str(stage.count(status) or "") for status in _SHOWN)
        lines.append(f"| {code(stage.name)} | {stage.verdict.value} | {counts} | {seconds(stage.seconds)} |")
    lines += ["", *(f"- {name}: {code(value)}" for name, value in _facts(report).items() if value)]
    return "\n".join(lines) + "\n"


def outputs(report: Report, folder: str) -> dict[str, str]:
    """Outputs by name: ``verdict``, ``commit``, ``digest``, ``image``, ``report``; empty where there is none."""
    image = report.image
    return {
        "verdict": report.verdict.value,
        "commit": report.commit.sha if report.commit else "",
        "digest": image.digest if image else "",
        "image": image.reference if image else "",
        "report": folder,
    }


def _cause(cause: Cause) -> str:
    count = f"{cause.count} case{'' if cause.count == 1 else 's'}"
    severity = f"{cause.severity}, " if cause.severity in {"low", "medium", "high", "critical"} else ""
    return f"- {cause.status.value} ({severity}{count}): {code(cause.title, 300)}"


def _facts(report: Report) -> dict[str, str]:
    commit, image = report.commit, report.image
    return {
        "commit": commit.sha + (" (uncommitted changes)" if commit.dirty else "") if commit else "",
        "image": image.reference if image else "",
        "server": str(report.server.get("version") or ""),
    }
