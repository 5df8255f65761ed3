"""Tells the provider the result of a run: annotations with file and line, the summary of the job, outputs of the step."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from vllm_ci.ci import current, log_commands, outputs
from vllm_ci.ci.current import Provider
from vllm_ci.ci.log_commands import Annotation
from vllm_ci.domain.causes import Cause, causes_of_report
from vllm_ci.domain.plain import visible
from vllm_ci.domain.report import Report
from vllm_ci.report import summary

# GitHub shows ten errors of a step.
_MOST = 10
_LONGEST = 2000


def tell(
    report: Report, folder: Path, checkout: Path, project: Path | None = None, env: Mapping[str, str] = os.environ
) -> list[str]:
    """Write the files that the provider reads, and return the lines that are to be printed for it.

    Args:
        report: The result, without secrets.
        folder: The report's folder.
        checkout: Top of the work tree, to tell which files of it failing cases are in.
        project: Folder of the configuration, which names of cases are relative to; by default the checkout.
        env: Environment variables of this process.
    """
    provider = current.provider(env)
    if provider is Provider.GITHUB:
        _append(env.get("GITHUB_STEP_SUMMARY", ""), summary.markdown(report))
    lines = [log_commands.annotation(provider, each) for each in failures(report, checkout, project)]
    lines += outputs.write(summary.outputs(report, str(folder)), env)
    if provider is Provider.AZURE:
        lines.append(f"##vso[task.uploadsummary]{folder}/summary.md")
    return [line for line in lines if line]


def failures(report: Report, checkout: Path, project: Path | None = None) -> list[Annotation]:
    """One for each cause, at the user's own test if its first case is one; the worst ten."""
    if report.problem is not None:
        problem = report.problem
        return [Annotation(title="vllm-ci", message=visible("\n".join(filter(None, (problem.line, problem.change)))))]
    places = checkout.resolve(), (project or checkout).resolve()
    return [_annotation(cause, report, *places) for cause in causes_of_report(report)[:_MOST]]


def _annotation(cause: Cause, report: Report, checkout: Path, project: Path) -> Annotation:
    first = cause.cases[0]
    cases = (case for stage in report.stages if stage.name == first.stage for case in stage.cases)
    details = next((case.details for case in cases if case.name == first.name), "")
    path, line = next(_places(first.name, details, checkout, project), ("", 0))
    more = f" (and {cause.count - 1} more)" if cause.count > 1 else ""
    return Annotation(
        title=f"{first.stage}: {cause.status.value}",
        message=visible(f"{cause.title}\n{first.label}{more}")[:_LONGEST],
        path=path,
        line=line,
    )


def _places(name: str, details: str, checkout: Path, project: Path) -> Iterator[tuple[str, int]]:
    """The file of a case, from the checkout on, with the last line of it in the traceback, if the work tree has that file."""
    path = name.partition("::")[0]
    plain = PurePosixPath(path)
    if not path.endswith(".py") or plain.is_absolute() or ".." in plain.parts:
        return
    file = project / plain
    if file.is_file() and file.is_relative_to(checkout):
        lines = re.findall(rf"(?:^|[\s/]){re.escape(path)}:(\d{{1,6}})\b", details)
        yield file.relative_to(checkout).as_posix(), int(lines[-1]) if lines else 1


def _append(path: str, text: str) -> None:
    if path:
        with Path(path).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
