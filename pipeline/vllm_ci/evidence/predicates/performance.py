"""A comparison with a baseline, bound to the digests of both images (a predicate of our own)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.report import Report, StageResult, Verdict
from vllm_ci.evidence.predicates import test_result
from vllm_ci.evidence.refusals import MalformedError
from vllm_ci.evidence.statement import PERFORMANCE, Statement, moment, timestamp

_KEPT = ("setting", "estimates", "naive")


@dataclass(frozen=True, kw_only=True)
class Performance:
    """What a statement says.

    Attributes:
        baseline: Digest of the baseline.
        verdict: Verdict of the stage.
        slowdown: Slowdown by metric, as a share.
        finished: When the stages were through.
    """

    baseline: str
    verdict: Verdict
    slowdown: Mapping[str, float]
    finished: datetime


def statements(report: Report, image: ImageRef) -> Iterator[Statement]:
    """A statement for each comparison of a report; a first release, which is compared with nothing, has none.

    Args:
        report: What was found.
        image: The image under the name it is released by; the digest must be the report's own.

    Raises:
        FailedError: The report is about something else, about a double, or about a dirty tree.
    """
    test_result.check(report, image)
    finished = moment(report.started_at or None) + timedelta(seconds=report.seconds)
    for stage in report.stages:
        found = stage.metrics.get("comparison")
        if isinstance(found, Mapping) and found.get("baseline") and found.get("candidate") == image.digest:
            predicate = _predicate(report, stage, found, finished)
            yield Statement.about(image, report.commit, PERFORMANCE, predicate)


def read(statement: Statement) -> Performance:
    """What a statement says.

    Raises:
        MalformedError: It is not readable.
    """
    try:
        predicate = statement.predicate
        return Performance(
            baseline=f"sha256:{predicate['baseline']['digest']['sha256']}",
            verdict=Verdict(predicate["verdict"]),
            slowdown={str(name): float(each["slowdown"]) for name, each in predicate["estimates"].items()},
            finished=moment(predicate["finishedAt"]),
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise MalformedError("a comparison cannot be read", remedy="run the stage performance and publish again") from error


def _predicate(report: Report, stage: StageResult, found: Mapping[str, Any], finished: datetime) -> dict[str, object]:
    pairs = found.get("pairs") or ()
    return {
        "verdict": stage.verdict.value,
        "finishedAt": timestamp(finished.astimezone(UTC)),
        "candidate": {"digest": {"sha256": _hex(found["candidate"])}},
        "baseline": {"digest": {"sha256": _hex(found["baseline"])}, "source": found.get("baseline_source", "")},
        **{name: found.get(name) or {} for name in _KEPT},
        "logRatios": [each.get("log_ratios") for each in pairs if isinstance(each, Mapping)],
        "hardware": dict(report.hardware),
        "engine": report.engine,
        **({"message": stage.message} if stage.message else {}),
    }


def _hex(digest: object) -> str:
    return str(digest).removeprefix("sha256:")
