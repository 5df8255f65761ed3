"""What is kept of a request: a few numbers, so that a long run needs little memory."""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from vllm_ci.loadgen.stream import NO_DONE, NO_USAGE, Stream

_NUMBER = re.compile(r"\d+")
"""Problems that differ only in numbers are counted as one."""
_RATIO = math.log(1.01)
"""Buckets of the histogram are 1 % wide."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One request. Times are seconds of the run's clock.

    Attributes:
        due_s: When it was due (open loop) or could be sent (closed loop). Latencies count from here.
        begun_s: When the client began with it. The time to connect, which comes after, is part of the latency.
        first_s: When its first token arrived; ``None`` if none did.
        end_s: When its last event arrived.
        last_s: When its last token arrived; ``None`` if none did.
        output_tokens: Tokens of the answer, by the server's usage, else the number of token chunks.
        prompt_tokens: Tokens of the prompt, by the server's usage; ``None`` without usage.
        chunks: Token chunks.
        asked_tokens: Tokens that were requested.
        problem: Why it failed; empty if it succeeded.
        undone: Its stream was whole but ended without ``[DONE]``.
    """

    due_s: float
    begun_s: float
    first_s: float | None
    end_s: float
    output_tokens: int
    prompt_tokens: int | None
    chunks: int
    asked_tokens: int
    problem: str = ""
    last_s: float | None = None
    undone: bool = False

    @property
    def lag_ms(self) -> float:
        """(begun - due): how late the client was."""
        return (self.begun_s - self.due_s) * 1000

    @property
    def ttft_ms(self) -> float | None:
        """(first token - due)."""
        return None if self.first_s is None else (self.first_s - self.due_s) * 1000

    @property
    def e2e_ms(self) -> float:
        """(last event - due)."""
        return (self.end_s - self.due_s) * 1000

    @property
    def tpot_ms(self) -> float | None:
        """(last token - first token) / (output_tokens - 1); ``None`` for answers of one token, or in one chunk."""
        if self.first_s is None or self.last_s is None or self.output_tokens < 2 or self.chunks < 2:
            return None
        return (self.last_s - self.first_s) / (self.output_tokens - 1) * 1000


def problems_of(stream: Stream) -> tuple[str, ...]:
    """Why a stream that was answered is not whole; empty if it is.

    Usage is not needed. Neither is ``[DONE]``: an answer with a finish reason for every choice, whose HTTP message is complete,
    is whole, and some servers (``transformers serve``) send none. The stage ``streaming`` judges that.
    """
    optional = {NO_USAGE} if stream.tally.ends else {NO_USAGE, NO_DONE}
    return tuple(defect.text for defect in stream.defects if defect.id not in optional)


def sample_of(stream: Stream, *, due_ns: int, begun_ns: int, asked_tokens: int) -> Sample:
    """Reduce a stream.

    Args:
        stream: The stream.
        due_ns: Clock at which it was due.
        begun_ns: Clock at the start of the run.
        asked_tokens: Tokens that were requested.
    """
    exchange, tally, metrics = stream.exchange, stream.tally, stream.metrics
    arrivals = tally.token_chunks_ns
    last_ns = tally.last_event_ns or exchange.ended_ns
    said = _NUMBER.sub("N", " ".join(exchange.text.split())[:200])
    problems = problems_of(stream)
    return Sample(
        due_s=(due_ns - begun_ns) / 1e9,
        begun_s=(exchange.begun_ns - begun_ns) / 1e9,
        first_s=(arrivals[0] - begun_ns) / 1e9 if arrivals else None,
        end_s=(last_ns - begun_ns) / 1e9,
        last_s=(arrivals[-1] - begun_ns) / 1e9 if arrivals else None,
        output_tokens=len(arrivals) if metrics.output_tokens is None else metrics.output_tokens,
        prompt_tokens=metrics.prompt_tokens,
        chunks=len(arrivals),
        asked_tokens=asked_tokens,
        problem=_NUMBER.sub("N", "; ".join(problems)[:300]) if exchange.status < 300 else f"status {exchange.status}: {said}",
        undone=not problems and not tally.ends,
    )


@dataclass(kw_only=True)
class Histogram:
    """Counts of positive values in buckets of 1 % width; quantiles are exact to half of that."""

    buckets: Counter[int] = field(default_factory=Counter)
    count: int = 0
    total: float = 0.0
    largest: float = 0.0

    def add(self, value: float) -> None:
        """Count a value; values of 0 or less count as a billionth."""
        self.buckets[math.floor(math.log(max(value, 1e-9)) / _RATIO)] += 1
        self.count += 1
        self.total += value
        self.largest = max(self.largest, value)

    def quantile(self, share: float) -> float:
        """The middle of the bucket that holds the quantile.

        Raises:
            ValueError: There are no values.
        """
        if not self.count:
            raise ValueError("no quantile of no values")
        left = share * (self.count - 1)
        for bucket in sorted(self.buckets):
            left -= self.buckets[bucket]
            if left < 0:
                return min(math.exp((bucket + 0.5) * _RATIO), self.largest)
        return self.largest

    @property
    def mean(self) -> float:
        """Arithmetic mean; 0 without values."""
        return self.total / self.count if self.count else 0.0


class Samples:
    """All requests of a run in arrays: 73 bytes each.

    Args:
        warm_up_s: Gaps of requests that were due earlier are not kept.

    Attributes:
        gaps_ms: Gaps between token chunks of all streams after the warm-up.
        problems: Number of failed requests by problem.
        undone: Number of requests whose stream was whole but ended without ``[DONE]``.
    """

    def __init__(self, *, warm_up_s: float = 0.0) -> None:
        self._warm_up_s = warm_up_s
        self.undone = 0
        self.gaps_ms = Histogram()
        self.problems: Counter[str] = Counter()
        self._numbers = array("d")
        self._counts = array("q")
        self._failed = array("b")

    def add(self, sample: Sample, gaps_ms: tuple[float, ...] = ()) -> None:
        """Keep a request and the gaps of its stream."""
        first = math.nan if sample.first_s is None else sample.first_s
        last = math.nan if sample.last_s is None else sample.last_s
        self._numbers.extend((sample.due_s, sample.begun_s, first, last, sample.end_s))
        prompt = -1 if sample.prompt_tokens is None else sample.prompt_tokens
        self._counts.extend((sample.output_tokens, prompt, sample.chunks, sample.asked_tokens))
        self._failed.append(bool(sample.problem))
        if sample.problem:
            self.problems[sample.problem] += 1
        self.undone += sample.undone
        for gap in gaps_ms if sample.due_s >= self._warm_up_s else ():
            self.gaps_ms.add(gap)

    def __len__(self) -> int:
        return len(self._failed)

    def __iter__(self) -> Iterator[Sample]:
        """All requests, in the order in which they ended; those that failed have the problem ``failed``."""
        return self.since(0)

    def since(self, number: int) -> Iterator[Sample]:
        """Those that ended after the first ``number``."""
        for place in range(number, len(self._failed)):
            failed = self._failed[place]
            due, begun, first, last, end = self._numbers[5 * place : 5 * place + 5]
            output, prompt, chunks, asked = self._counts[4 * place : 4 * place + 4]
            yield Sample(
                due_s=due,
                begun_s=begun,
                first_s=None if math.isnan(first) else first,
                end_s=end,
                last_s=None if math.isnan(last) else last,
                output_tokens=output,
                prompt_tokens=None if prompt < 0 else prompt,
                chunks=chunks,
                asked_tokens=asked,
                problem="failed" if failed else "",
            )
