"""The result of a comparison as a stage: a case for each metric, all estimates, and what a naive comparison would have said."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vllm_ci.domain.performance import PerformanceSpec
from vllm_ci.domain.report import Case, CaseStatus, StageResult, Verdict, verdict_of
from vllm_ci.performance import gate, pairs
from vllm_ci.performance.gate import Decision, Estimate, Judgement, Limit
from vllm_ci.performance.pairs import Pair
from vllm_ci.performance.rounds import Round

STAGE = "performance"
_STATUS = {
    Decision.PASSED: CaseStatus.PASSED,
    Decision.FAILED: CaseStatus.FAILED,
    Decision.MORE: CaseStatus.INCONCLUSIVE,
    Decision.INCONCLUSIVE: CaseStatus.INCONCLUSIVE,
}


@dataclass(frozen=True, kw_only=True)
class Ending:
    """Why a comparison ended before its last look.

    Attributes:
        verdict: Of the stage.
        message: What happened.
        log: Log of the program or server that it happened to.
    """

    verdict: Verdict
    message: str
    log: str = ""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What was measured.

    Attributes:
        spec: How the images are compared.
        subject: What is compared: images, and where the baseline comes from.
        pairs: The pairs.
        untrusted: Why further pairs were repeated.
        seconds: Wall time.
    """

    spec: PerformanceSpec
    subject: Mapping[str, object]
    pairs: tuple[Pair, ...] = ()
    untrusted: tuple[str, ...] = ()
    seconds: float = 0.0
    limits: tuple[Limit, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "limits", pairs.limits(self.spec))

    @property
    def judgement(self) -> Judgement | None:
        """The judgement of all pairs; ``None`` for fewer than two."""
        if len(self.pairs) < 2:
            return None
        return gate.judge(pairs.values(self.pairs, self.limits), self.limits, looks=self.spec.looks)


def of(compared: Compared, ending: Ending | None) -> StageResult:
    """The result of the stage; the pairs until ``ending`` are kept."""
    cases = [*_ending_case(ending), *_metric_cases(compared, ending)]
    verdict, message = verdict_of(cases)
    if ending is not None:
        verdict, message = ending.verdict, ending.message
    return StageResult(
        name=STAGE,
        verdict=verdict,
        seconds=round(compared.seconds, 3),
        cases=tuple(cases),
        message="\n".join(filter(None, (message, _line(compared)))),
        metrics={"comparison": document(compared)},
        log=ending.log if ending is not None else "",
    )


def alone(compared: Compared, rounds: Sequence[Round], why: str) -> StageResult:
    """The result where there is no baseline: measured, not compared."""
    status = CaseStatus.PASSED if compared.spec.first else CaseStatus.INCONCLUSIVE
    advice = (
        "passed because of `first: true`" if compared.spec.first else "set stages.performance.first to pass a first release"
    )
    message = f"no baseline: {why}; the candidate was measured and compared with nothing ({advice})"
    case = Case(name=f"{STAGE}::baseline", status=status, message=message, seconds=round(compared.seconds, 3))
    measured = {"candidate": [each.document() for each in rounds]}
    return StageResult(
        name=STAGE,
        verdict=verdict_of([case])[0],
        seconds=round(compared.seconds, 3),
        cases=(case,),
        message=message,
        metrics={"comparison": {**document(compared), **measured}},
    )


def same(compared: Compared) -> StageResult:
    """The result where candidate and baseline are one image, which cannot be slower than itself."""
    message = f"the commit's image is the baseline itself ({compared.subject.get('baseline')}): nothing to measure"
    case = Case(name=f"{STAGE}::same-image", status=CaseStatus.PASSED, message=message)
    metrics = {"comparison": document(compared)}
    return StageResult(name=STAGE, verdict=Verdict.PASSED, seconds=0.0, cases=(case,), message=message, metrics=metrics)


def document(compared: Compared) -> dict[str, object]:
    """All that the result rests on, as JSON."""
    judgement, spec = compared.judgement, compared.spec
    found = judgement.estimates if judgement else ()
    return {
        **compared.subject,
        "setting": {name: value for name, value in dataclasses.asdict(spec).items() if name != "baseline"},
        "estimates": {each.metric: _estimate(each, limit) for each, limit in zip(found, compared.limits, strict=False)},
        "counters": [dataclasses.asdict(each) for each in pairs.counters(compared.pairs)],
        "naive": naive(compared),
        "untrusted": list(compared.untrusted),
        "pairs": [each.document(compared.limits) for each in compared.pairs],
    }


def spec_of(stage: StageResult) -> PerformanceSpec | None:
    """The settings that a result was made with; ``None`` if it has none, because nothing was measured."""
    found = stage.metrics.get("comparison")
    setting = found.get("setting") if isinstance(found, Mapping) else None
    return PerformanceSpec(**setting) if isinstance(setting, Mapping) else None


def naive(compared: Compared) -> dict[str, object]:
    """What the first round of the first pair alone would have said: shown beside the result, and not used."""
    if not compared.pairs:
        return {}
    first = {limit.metric: compared.pairs[0].log_ratios(limit)[:1] for limit in compared.limits}
    slowdowns = {name: math.expm1(values[0]) for name, values in first.items() if values}
    failed = any(slowdowns.get(limit.metric, 0.0) > limit.margin for limit in compared.limits)
    return {"verdict": "failed" if failed else "passed", "slowdown": slowdowns}


def _estimate(estimate: Estimate, limit: Limit) -> dict[str, object]:
    return {**dataclasses.asdict(estimate), "decision": str(estimate.decision), "margin": limit.margin}


def _ending_case(ending: Ending | None) -> list[Case]:
    if ending is None:
        return []
    return [Case(name=f"{STAGE}::comparison", status=CaseStatus(ending.verdict.value), message=ending.message)]


def _metric_cases(compared: Compared, ending: Ending | None) -> list[Case]:
    """A case for each metric. A comparison that ended early has estimates, and no verdict on them."""
    judgement = compared.judgement
    if judgement is None:
        return []
    cases = []
    for limit, estimate in zip(compared.limits, judgement.estimates, strict=True):
        status = CaseStatus.SKIPPED if ending is not None else _STATUS[estimate.decision]
        said = describe(estimate, limit)
        message = f"not judged: the comparison ended early; so far {said}" if ending is not None else said
        properties = {**_estimate(estimate, limit), "log_ratios": _values(compared, limit)}
        cases.append(Case(name=f"{STAGE}::{limit.metric}", status=status, message=message, properties=properties))
    return cases


def _values(compared: Compared, limit: Limit) -> list[float]:
    return [gate.pair_value(each.log_ratios(limit)) for each in compared.pairs]


def describe(estimate: Estimate, limit: Limit) -> str:
    """An estimate in words: how much slower, its interval, what is tolerated."""
    word = "slower" if estimate.slowdown >= 0 else "faster"
    share = f"{abs(estimate.slowdown):.1%} {word} ({estimate.low:+.1%} to {estimate.high:+.1%}, {estimate.pairs} pairs)"
    return f"{share}; up to {limit.margin:.0%} slower is tolerated"


def _line(compared: Compared) -> str:
    """One line for the console."""
    judgement = compared.judgement
    if judgement is None:
        return f"{len(compared.pairs)} pairs were measured" if compared.pairs else ""
    parts = [f"{each.metric} {each.slowdown:+.1%} ({each.low:+.1%} to {each.high:+.1%})" for each in judgement.estimates]
    alone = naive(compared).get("verdict")
    return f"slowdown after {len(compared.pairs)} pairs: {', '.join(parts)}; one run against one would have said {alone}"
