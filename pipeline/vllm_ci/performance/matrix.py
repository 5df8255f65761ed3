"""The servers of a matrix side by side: speed, memory, and agreement of greedy answers with the first of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from vllm_ci.domain.plain_json import is_number
from vllm_ci.domain.report import StageResult, Verdict
from vllm_ci.stages.measured import MEASURED


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far the answers of two servers agree.

    Attributes:
        same: Share of the answers that are equal.
        prefix: Mean share of an answer up to the first difference.
    """

    same: float
    prefix: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One server.

    Attributes:
        server: Its name in the matrix; ``reference`` is the project as it is configured.
        verdict: Whether its figures can be trusted.
        output_tokens_per_s: Median over the rounds; ``None``, here and below, where it is not known.
        ttft_ms: Median of the rounds' means.
        tpot_ms: Median of the rounds' means.
        memory_bytes: Peak of the processes (PSS, else RSS).
        gpu_bytes: Peak of the memory of all GPUs.
        same_answers: Share of the greedy answers that are equal to those of the first row.
        same_prefix: Mean share of an answer up to its first difference from that of the first row.
    """

    server: str
    verdict: Verdict
    output_tokens_per_s: float | None
    ttft_ms: float | None
    tpot_ms: float | None
    memory_bytes: float | None
    gpu_bytes: float | None
    same_answers: float | None
    same_prefix: float | None

    def to_json(self) -> dict[str, object]:
        """As JSON."""
        return {**asdict(self), "verdict": self.verdict.value}


def rows(stages: Iterable[StageResult]) -> tuple[Row, ...]:
    """The rows of a report; empty if no server was measured.

    Args:
        stages: Results of a run; those that measured a server have its name after ``@``.
    """
    found = [(stage, measured) for stage in stages if isinstance(measured := stage.metrics.get(MEASURED), Mapping)]
    reference = _answers(found[0][1]) if found else []
    return tuple(_row(stage, measured, reference) for stage, measured in found)


def _row(stage: StageResult, measured: Mapping[str, object], reference: Sequence[Sequence[object]]) -> Row:
    agrees = agreement(_answers(measured), reference)
    return Row(
        server=stage.name.partition("@")[2] or stage.name,
        verdict=stage.verdict,
        output_tokens_per_s=_number(measured, "output_tokens_per_s"),
        ttft_ms=_number(measured, "ttft_ms"),
        tpot_ms=_number(measured, "tpot_ms"),
        memory_bytes=_number(measured, "pss_bytes") or _number(measured, "rss_bytes"),
        gpu_bytes=_number(measured, "gpu_bytes"),
        same_answers=agrees.same if agrees else None,
        same_prefix=agrees.prefix if agrees else None,
    )


def _answers(measured: Mapping[str, object]) -> list[Sequence[object]]:
    """The greedy answers; the metrics of a report may be anything."""
    given = measured.get("greedy")
    return [each for each in given if isinstance(each, list | tuple)] if isinstance(given, list | tuple) else []


def _number(measured: Mapping[str, object], name: str) -> float | None:
    value = measured.get(name)
    return value if is_number(value) else None


def agreement(found: Sequence[Sequence[object]], reference: Sequence[Sequence[object]]) -> Agreement | None:
    """Compare answers with those of a reference; ``None`` if there is nothing to compare.

    Args:
        found: Answers of one server.
        reference: Answers to the same prompts.
    """
    pairs = list(zip(found, reference, strict=False))
    if not pairs or len(found) != len(reference) or not any(map(len, reference)):
        return None
    equal = [list(one) == list(other) for one, other in pairs]
    return Agreement(same=sum(equal) / len(equal), prefix=sum(_shared(one, other) for one, other in pairs) / len(pairs))


def _shared(one: Sequence[object], other: Sequence[object]) -> float:
    longest = max(len(one), len(other))
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return sum(1 for _ in alike) / longest if longest else 1.0
