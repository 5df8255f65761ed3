"""The servers of a matrix side by side: speed, memory, and agreement of greedy answers with the first of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

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
    found = [(stage, stage.metrics[MEASURED]) for stage in stages if isinstance(stage.metrics.get(MEASURED), Mapping)]
    reference: list[Any] = list(found[0][1].get("greedy") or ()) if found else []  # type: ignore[attr-defined]
    return tuple(_row(stage, measured, reference) for stage, measured in found)  # type: ignore[arg-type]


def _row(stage: StageResult, measured: Mapping[str, Any], reference: list[Any]) -> Row:
    agrees = agreement(list(measured.get("greedy") or ()), reference)
    return Row(
        server=stage.name.partition("@")[2] or stage.name,
        verdict=stage.verdict,
        output_tokens_per_s=measured.get("output_tokens_per_s"),
        ttft_ms=measured.get("ttft_ms"),
        tpot_ms=measured.get("tpot_ms"),
        memory_bytes=measured.get("pss_bytes") or measured.get("rss_bytes"),
        gpu_bytes=measured.get("gpu_bytes"),
        same_answers=agrees.same if agrees else None,
        same_prefix=agrees.prefix if agrees else None,
    )


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
