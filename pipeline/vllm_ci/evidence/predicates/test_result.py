"""What the stages found (in-toto test-result v0.1), one statement a stage, bound to the digest that was tested."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from vllm_ci.domain.errors import FailedError
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.report import CaseStatus, Report, StageResult, Verdict
from vllm_ci.evidence.refusals import MalformedError
from vllm_ci.evidence.statement import TEST_RESULT, Statement, moment, timestamp

# The predicate knows three results; errored and inconclusive are at best a warning.
_RESULTS = {Verdict.PASSED: "PASSED", Verdict.INCONCLUSIVE: "WARNED", Verdict.ERRORED: "FAILED", Verdict.FAILED: "FAILED"}


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """A stage's result as it was stated.

    Attributes:
        stage: Name of the stage.
        verdict: Its verdict.
        finished: When the stages were through.
    """

    stage: str
    verdict: Verdict
    finished: datetime


def statements(report: Report, image: ImageRef, ctrf: bytes) -> Iterator[Statement]:
    """A statement for each stage of a report.

    Args:
        report: What was found.
        image: The image under the name it is released by; the digest must be the report's own.
        ctrf: Bytes of the report's CTRF view, whose hash goes into the statements.

    Raises:
        FailedError: The report is about something else, about a double, or about a dirty tree.
    """
    check(report, image)
    assert report.commit  # noqa: S101 - check() has said so
    finished = moment(report.started_at or None) + timedelta(seconds=report.seconds)
    for stage in report.stages:
        yield Statement.about(image, report.commit, TEST_RESULT, _predicate(report, stage, finished, ctrf))


def check(report: Report, image: ImageRef) -> None:
    """Check that a report is evidence for an image.

    Raises:
        FailedError: It may not.
    """
    if report.double:
        raise FailedError(
            "this report is about a test double",
            why="a double shows that the tests work, not that vLLM does",
            remedy="run the stages against the real image: vllm-ci run",
        )
    if report.commit is None or report.image is None:
        raise FailedError(
            "this report names no commit and no image",
            why="it is of a server that was only given by its URL",
            remedy="run the stages on the built image: vllm-ci run",
        )
    if report.commit.dirty:
        raise FailedError(
            f"this report is about a dirty work tree ({report.commit.short})",
            why="no commit holds what was tested",
            remedy="commit your changes, then run vllm-ci run again",
        )
    if report.image.digest != image.digest:
        raise FailedError(
            f"this report is about {report.image.digest[:19]}, and {image.digest[:19]} is to be published",
            why="the image was built again with another result after it was tested",
            remedy="run vllm-ci run again: what is tested is what is published",
        )


def read(statement: Statement) -> TestResult:
    """What a statement says.

    Raises:
        MalformedError: It is not readable, or says two things.
    """
    try:
        annotations = statement.predicate["configuration"][0]["annotations"]
        verdict, result = Verdict(annotations["verdict"]), statement.predicate["result"]
        found = TestResult(stage=str(annotations["stage"]), verdict=verdict, finished=moment(annotations["finishedAt"]))
    except (LookupError, TypeError, ValueError) as error:
        raise MalformedError("a test result cannot be read", remedy="run the stages and publish again") from error
    if result != _RESULTS[verdict] or (verdict is Verdict.PASSED and statement.predicate.get("failedTests")):
        raise MalformedError(f"the test result of {found.stage} says {verdict.value} and {result}", remedy="create it again")
    return found


def _predicate(report: Report, stage: StageResult, finished: datetime, ctrf: bytes) -> dict[str, object]:
    passed = [case.name for case in stage.cases if case.status is CaseStatus.PASSED]
    failed = [case.name for case in stage.cases if case.status in (CaseStatus.FAILED, CaseStatus.ERRORED)]
    other = [case.name for case in stage.cases if case.name not in {*passed, *failed} and case.status is not CaseStatus.SKIPPED]
    return {
        "result": _RESULTS[stage.verdict],
        "configuration": [
            {
                "name": "ctrf.json",
                "digest": {"sha256": hashlib.sha256(ctrf).hexdigest()},
                "annotations": {
                    "stage": stage.name,
                    "verdict": stage.verdict.value,
                    "finishedAt": timestamp(finished.astimezone(UTC)),
                    "engine": report.engine,
                    "skipped": stage.count(CaseStatus.SKIPPED),
                    **({"message": stage.message} if stage.message else {}),
                    **({"model": report.model.identity} if report.model else {}),
                },
            }
        ],
        "passedTests": passed,
        "warnedTests": other,
        "failedTests": failed,
    }
