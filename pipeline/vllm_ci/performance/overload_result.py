"""The result of an overload: figures, verdict, and what a person reads."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from vllm_ci.domain.report import Verdict
from vllm_ci.performance.driven import Phase, Record
from vllm_ci.performance.headroom import Headroom
from vllm_ci.performance.measuring import Setting
from vllm_ci.performance.outcome import Outcome
from vllm_ci.performance.recovery import WINDOW, limit_ms


@dataclass(frozen=True, kw_only=True)
class Overload:
    """The result; what was not reached is ``None``.

    Attributes:
        setting: The setting; its rate is that of the calm phases.
        factor: Multiple of the capacity.
        capacity: What the search found.
        light_ttft_ms: Median TTFT of single requests before the search, and after it.
        calm: The calm phase before the overload.
        overload: The overload.
        recovery: The calm phase after it.
        limit_ms: Median TTFT at which latency is back.
        drained_s: After the overload, when the last of its requests had ended; ``None`` if one never did.
        back_s: After the overload, when latency was back; ``None`` if it was not while it was watched.
        watched_s: How long the recovery was watched.
        memory: By name, the value before the overload, the largest one, and the last one.
        verdict: ``passed``: what was not served was refused, and latency is back. ``failed``: other failures, or it is not
            back. ``errored``: the server is gone, or it was interrupted. ``inconclusive``: there was no overload, or the client
            was the bottleneck.
        reasons: Why it is not ``passed``.
        interrupted: It was stopped before its end.
    """

    setting: Setting
    factor: float
    capacity: Headroom | None = None
    light_ttft_ms: tuple[float, ...] = ()
    calm: Phase | None = None
    overload: Phase | None = None
    recovery: Phase | None = None
    limit_ms: float | None = None
    drained_s: float | None = None
    back_s: float | None = None
    watched_s: float = 0.0
    memory: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    verdict: Verdict = Verdict.ERRORED
    reasons: tuple[str, ...] = ()
    interrupted: bool = False

    def document(self) -> dict[str, Any]:
        """As JSON."""
        found = self.capacity
        return {
            "setting": {**self.setting.facts, "overload_factor": self.factor},
            "verdict": str(self.verdict),
            "reasons": list(self.reasons),
            "interrupted": self.interrupted,
            "capacity_per_s": found.capacity_per_s if found is not None and found.found else None,
            "search": [dataclasses.asdict(each) for each in found.tries] if found is not None else [],
            "single_ttft_ms": [value if math.isfinite(value) else None for value in self.light_ttft_ms],
            **{
                name: dataclasses.asdict(each) if each is not None else None
                for name, each in (("calm", self.calm), ("overload", self.overload), ("recovery", self.recovery))
            },
            "back_below_ttft_ms": self.limit_ms,
            "drained_after_s": self.drained_s,
            "latency_back_after_s": self.back_s,
            "recovery_watched_s": self.watched_s,
            "resources": {
                name: dict(zip(("before", "peak", "after"), each, strict=True)) for name, each in self.memory.items()
            },
        }


def recovered_from_search(found: Overload) -> bool:
    """Whether single requests were as fast after the search as before it."""
    before, *after = found.light_ttft_ms
    return all(value <= limit_ms(before) for value in after)


def judged(found: Overload, record: Record) -> Overload:
    """The result with its verdict.

    Args:
        found: What was measured.
        record: The last load.
    """
    said = list(_said(found, record))
    verdicts = [verdict for verdict, _ in said] or [Verdict.PASSED]
    # A server that is gone breaks all streams: no verdict on what it would have done.
    ended_early = Verdict.ERRORED in verdicts
    return dataclasses.replace(
        found,
        verdict=Verdict.ERRORED if ended_early else Verdict.worst(verdicts),
        reasons=tuple(reason for _, reason in said),
        interrupted=found.interrupted or record.interrupted,
    )


def _said(found: Overload, record: Record) -> Iterator[tuple[Verdict, str]]:
    """Verdicts, each with its reason; none if all is well."""
    if record.interrupted:
        yield Verdict.ERRORED, f"interrupted; {len(record.samples)} of {record.sent} requests of the last load had ended"
    if record.gone:
        yield Verdict.ERRORED, f"the server takes no connection any more{_when(found)}; the figures are those until then"
    if record.interrupted or record.gone:
        return
    if found.calm is None:
        yield _unmeasured(found, record)
        return
    if late := record.client_too_slow:
        yield Verdict.INCONCLUSIVE, late
    yield from _of_phases(found)


def _when(found: Overload) -> str:
    if found.recovery is not None:
        return " after the overload"
    if found.overload is not None:
        return " under overload"
    return " in the search for its capacity" if found.capacity is not None else ""


def _unmeasured(found: Overload, record: Record) -> tuple[Verdict, str]:
    """Why there was no overload."""
    room = found.capacity
    if room is None:
        why = next(iter(record.samples.problems), "none ended in time")
        return Verdict.ERRORED, f"no single request succeeded: {why}"
    if room.client_too_slow:
        return Verdict.INCONCLUSIVE, f"the capacity was not found: {room.client_too_slow}"
    if not room.found:
        return (
            Verdict.INCONCLUSIVE,
            f"the capacity was not found: the server keeps up with {room.tries[-1].rate:.0f} requests/s",
        )
    if not recovered_from_search(found):
        before, after = found.light_ttft_ms
        late = "no answer" if after == math.inf else f"{after:.0f} ms"
        reason = (
            f"the server did not recover from the search for its capacity ({room.tries[-1].rate:.3g} requests/s for a few"
            f" seconds): TTFT of single requests was {before:.0f} ms before and is {late} after it"
        )
        return Verdict.FAILED, reason
    calm = f"{found.setting.rate:.3g} requests/s"
    return Verdict.INCONCLUSIVE, f"{calm} are not calm: the server serves {room.capacity_per_s:.3g}/s at most; lower --rate"


def _of_phases(found: Overload) -> Iterator[tuple[Verdict, str]]:
    for name, phase in (("calm phase", found.calm), ("overload", found.overload), ("recovery", found.recovery)):
        for outcome, count in phase.failed.items() if phase is not None else ():
            verdict = Verdict.INCONCLUSIVE if outcome == Outcome.CLIENT else Verdict.FAILED
            yield verdict, f"{name}: {count} of {phase.requests if phase else 0} requests ended with {outcome}"
        if phase is not None and phase.wrong_tokens:
            yield Verdict.FAILED, f"{name}: {phase.wrong_tokens} answers have another number of tokens than was requested"
    if found.limit_ms is None:
        yield Verdict.INCONCLUSIVE, f"fewer than {WINDOW} requests of the calm phase were served: raise --duration"
        return
    if found.overload is not None and not _overloaded_at_all(found.overload, found.limit_ms):
        yield Verdict.INCONCLUSIVE, "the server kept up with the overload: its capacity is higher than the search found"
    if found.back_s is None:
        reason = f"latency was not back after {found.watched_s:.0f} s: TTFT p50 of {WINDOW} successive requests stayed above"
        yield Verdict.FAILED, f"{reason} {found.limit_ms:.0f} ms"


def summary(found: Overload) -> str:
    """The result in one sentence; empty if there was no overload."""
    room, phase = found.capacity, found.overload
    if room is None or phase is None or not phase.requests:
        return ""
    served = phase.outcomes.get(Outcome.SERVED, 0)
    failed = sum(phase.failed.values())
    shares = [f"{count / phase.requests:.0%}" for count in (served, phase.requests - served - failed, failed)]
    times = f"{phase.rate / room.capacity_per_s:.2g} times its capacity of {room.capacity_per_s:.3g} requests/s"
    parts = [
        f"at {times}, the server served {shares[0]} of the requests, refused {shares[1]} and failed {shares[2]}",
        f"it answered {phase.served_per_s:.3g}/s ({phase.served_per_s / room.capacity_per_s:.0%} of the capacity)",
    ]
    if found.drained_s is not None:
        parts.append(f"the last of these requests ended {found.drained_s:.1f} s after the overload")
    if found.back_s is not None:
        parts.append(f"latency was back {found.back_s:.1f} s after it")
    elif found.recovery is not None and not found.interrupted:
        parts.append(f"latency was not back {found.watched_s:.0f} s after it")
    return "; ".join(parts)


def _overloaded_at_all(phase: Phase, limit_ms: float) -> bool:
    served = phase.outcomes.get(Outcome.SERVED, 0)
    median = phase.ttft_ms.percentiles.get(50.0, phase.ttft_ms.mean) if phase.ttft_ms else math.inf
    return served < phase.requests or median > limit_ms
