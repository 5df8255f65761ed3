"""Rules for verdicts about the course of time, with their error rates. Pure functions.

A machine without processor time delivers late, whatever the server's code does, so each rule says what it needs when the
machine was starved (:mod:`vllm_ci.suites.machine`). The figures of a correct server on a starved machine are those of
``benchmarks/verdicts_under_load.py``: of 60 streams of at least a second, with three busy processes for each processor, the
one that arrived most like a burst had a share of 0.92 (median 0.98), so the probability of a share of at most 0.1 is below 5 %
(95 % confidence, rule of three). All of 8 streams have one with a probability below 4e-11 if they are independent. In 25 runs
of the timing cases of the suites at a load of 10 for each processor, of 475 verdicts none was ``failed``, 23 were inconclusive.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

STREAMS = 8
"""Streams that are looked at before a server is said to hold back chunks."""
SHORTEST_MS = 60.0
"""An answer that is generated in less time may arrive at once because of the network, not the server."""
AIM_MS = 4 * SHORTEST_MS
"""Time in which an answer should be generated, to be well above that."""
STARVED_AIM_MS = 1000.0
"""The same on a starved machine, where processes wait up to a tenth of a second for a processor."""
PROGRESSIVE = 0.5
BURST = 0.2
OVERWHELMING = 0.1
_AT_ONCE_MS = 0.2
"""Chunks that came faster than this, on average, did not come at the speed of any model."""
_GROUP = 10
_FEW = 4
PAIRS = 10
STARVED_PAIRS = 20
_EARLY = {False: 1, True: 3}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A verdict: ``passed``, ``failed`` or ``inconclusive``; empty while more streams are needed."""

    verdict: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """When the chunks of one stream arrived.

    Attributes:
        at_ms: Times of the chunks with tokens or content, since the request.
        latency_ms: Time that an answer of one token takes: it is not part of the generation.
    """

    at_ms: Sequence[float]
    latency_ms: float

    @property
    def generation_ms(self) -> float:
        """Time that the generation took, as seen from outside."""
        return max(self.at_ms[-1] - self.latency_ms, 0.0) if self.at_ms else 0.0

    @property
    def span_ms(self) -> float:
        """Time from the first chunk to the last."""
        return self.at_ms[-1] - self.at_ms[0] if self.at_ms else 0.0

    @property
    def share(self) -> float:
        """Share of the generation over which chunks arrived: about 1 for a stream, 0 for a burst."""
        return min(self.span_ms / self.generation_ms, 1.0) if self.generation_ms else float(self.span_ms > 0)

    @property
    def at_once(self) -> bool:
        """All chunks came faster than a model generates."""
        return self.span_ms <= max(_AT_ONCE_MS * len(self.at_ms), 0.02 * self.generation_ms)

    @property
    def moments(self) -> int:
        """Number of groups of chunks; chunks closer than half an average step belong together."""
        apart_ms = self.generation_ms / max(len(self.at_ms), 1) / 2
        return 1 + sum(late - early > apart_ms for early, late in itertools.pairwise(self.at_ms))

    @property
    def grouped(self) -> bool:
        """Many chunks came in few groups, with pauses that a reader sees."""
        chunks = len(self.at_ms)
        few = self.moments * _GROUP <= chunks or (self.moments <= _FEW and chunks >= _FEW * 4)
        return few and self.span_ms >= SHORTEST_MS

    def __str__(self) -> str:
        return (
            f"{len(self.at_ms)} chunks arrived over {self.share:.0%} of the {self.generation_ms:.0f} ms of generation, "
            f"in {self.moments} groups"
        )


def aim_ms(starved: str) -> float:
    """Time in which an answer should be generated, to tell a stream from a burst."""
    return STARVED_AIM_MS if starved else AIM_MS


def delivered(tries: Sequence[Arrival], starved: str) -> Outcome:
    """Whether chunks arrive during generation.

    ``passed`` needs one stream that arrives over half of its generation and not in groups: a busy machine can make a stream
    look like a burst, but not the reverse. ``failed`` needs :data:`STREAMS` streams that all came in one burst (a share of at
    most 0.2, faster than a model generates), or all in groups. On a starved machine only bursts can fail, and only if each of
    these streams took at least a second and came within 0.1 of it; see above for the error rate.

    Args:
        tries: All streams so far.
        starved: Why the machine could not have delivered; empty if it could.
    """
    best = max(tries, key=lambda each: (not each.grouped, each.share))
    if best.share >= PROGRESSIVE and not best.grouped and len(best.at_ms) > 1:
        return Outcome(verdict="passed", reason=str(best))
    if len(tries) < STREAMS:
        return Outcome()
    verdict, reason = _held_back(tries, best, starved)
    return Outcome(verdict=verdict, reason=f"in the best of {len(tries)} streams {best}: {reason}")


def _held_back(tries: Sequence[Arrival], best: Arrival, starved: str) -> tuple[str, str]:
    """Verdict and reason for streams of which none is clearly progressive."""
    if best.generation_ms < SHORTEST_MS:
        return "inconclusive", "too fast to distinguish a stream from a burst"
    if _burst(tries, starved):
        return "failed", "each answer was buffered and arrived in one burst"
    if starved:
        return "inconclusive", f"the machine was busy ({starved})"
    if all(each.grouped for each in tries):
        return "failed", "chunks are held back and arrive in groups"
    return "inconclusive", "neither clearly a stream nor clearly a burst"


def _burst(tries: Sequence[Arrival], starved: str) -> bool:
    if starved:
        return all(each.share <= OVERWHELMING and each.generation_ms >= STARVED_AIM_MS for each in tries)
    return all(each.share <= BURST and each.at_once for each in tries)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A whole answer and a stream of the same request, one after the other.

    Attributes:
        whole_ms: Time of the whole answer.
        first_ms: Time to the first chunk of the stream.
        latency_ms: Time that an answer of one token takes.
    """

    whole_ms: float
    first_ms: float
    latency_ms: float

    @property
    def early(self) -> bool:
        """The first chunk came in the first half of the generation."""
        return self.first_ms - self.latency_ms < (self.whole_ms - self.latency_ms) / 2

    @property
    def late(self) -> bool:
        """The first chunk came after a whole answer would have."""
        return self.first_ms >= self.whole_ms


def first_came(pairs: Sequence[Pair], starved: str) -> Outcome:
    """Whether the first chunk comes before a whole answer would.

    A sign test. The first chunk of a correct server comes no later than its whole answer, apart from variations that hit both
    alike, so it is late in at most half of the pairs: all of 10 are late with a probability of at most 0.1 %, all of 20, which
    a starved machine needs, of at most 1e-6. ``passed`` needs one pair in which it came early, or three on a starved machine.

    Args:
        pairs: All pairs so far.
        starved: Why the machine could not have delivered; empty if it could.
    """
    best = min(pairs, key=lambda pair: pair.first_ms - pair.whole_ms)
    seen = f"the first chunk took {best.first_ms:.0f} ms, a whole answer {best.whole_ms:.0f} ms"
    if sum(pair.early for pair in pairs) >= _EARLY[bool(starved)]:
        return Outcome(verdict="passed", reason=seen)
    if len(pairs) < (STARVED_PAIRS if starved else PAIRS):
        return Outcome()
    if best.whole_ms - best.latency_ms < SHORTEST_MS:
        return Outcome(verdict="inconclusive", reason=f"{seen}: too fast to compare")
    if all(pair.late for pair in pairs):
        return Outcome(verdict="failed", reason=f"in all of {len(pairs)} pairs it came later; at best {seen}")
    busy = f"; the machine was busy: {starved}" if starved else ""
    return Outcome(
        verdict="inconclusive", reason=f"in the best of {len(pairs)} pairs {seen}: neither clearly early nor late{busy}"
    )


def delivered_together(rounds: Sequence[Sequence[Arrival]], starved: str) -> Outcome:
    """Whether the chunks of concurrent streams arrive during generation.

    A stream may wait for a slot, and run faster when others have ended, so only the time from its first chunk to its last
    counts. It came at once if that is less than 2 % of the longest of its round (10 % on a starved machine), or faster than a
    model generates. ``passed`` needs one round without such a stream, or two on a starved machine; ``failed`` needs
    :data:`STREAMS` rounds that all have one, and on a starved machine that a quarter of the streams of each round came at once
    while others took at least a second.

    Args:
        rounds: Streams of each round; those with very few chunks are not looked at.
        starved: Why the machine could not have delivered; empty if it could.
    """
    looked = [[each for each in streams if len(each.at_ms) >= _FEW] for streams in rounds]
    if not all(looked):
        return Outcome(verdict="inconclusive", reason="the streams have too few chunks to tell a stream from a burst")
    bad = [_at_once(streams, starved=bool(starved)) for streams in looked]
    if sum(not number for number in bad) >= (2 if starved else 1):
        return Outcome(verdict="passed", reason="no stream came at once")
    if len(rounds) < STREAMS:
        return Outcome()
    seen = f"in each of {len(rounds)} rounds at least {min(bad)} of {len(rounds[0])} concurrent streams arrived in one burst"
    if starved and not (min(bad) * 4 >= len(rounds[0]) and all(map(_long, looked))):
        return Outcome(verdict="inconclusive", reason=f"{seen}, but the machine was busy ({starved})")
    return Outcome(verdict="failed", reason=f"{seen}: they are held back")


def _long(streams: Sequence[Arrival]) -> bool:
    return max(each.span_ms for each in streams) >= STARVED_AIM_MS


def _at_once(streams: Sequence[Arrival], *, starved: bool) -> int:
    """Number of streams that came at once."""
    longest_ms = max((each.span_ms for each in streams), default=0.0)
    share = OVERWHELMING if starved else 0.02
    return sum(each.span_ms <= max(_AT_ONCE_MS * len(each.at_ms), share * longest_ms) for each in streams)
