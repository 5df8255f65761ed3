"""Two answers to the same request, one that a user got and one that nobody saw: how far they agree, in numbers. Pure.

Texts are not kept: a difference is known by the id of its request and the place of the first token that differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median

KEPT = 1000
"""Pairs that differ and are kept one by one, and latencies of each side that are kept."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """An answer.

    Attributes:
        status: Of HTTP; 0: none came.
        finish: Finish reason of each choice.
        tokens: How many.
        latency_ms: From the request to the end of the answer.
    """

    status: int
    finish: tuple[str, ...] = ()
    tokens: int = 0
    latency_ms: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Both answers to a request.

    Attributes:
        request_id: As in the access log.
        path: Of the request.
        old: What the user got.
        new: The answer to the copy.
        cut: One of them was not read whole: the user went away, or it is too long.
        greedy: The request asks for the most likely tokens.
        agreed: Tokens that are the same from the beginning on.
    """

    request_id: str
    path: str
    old: Side
    new: Side
    cut: bool = False
    greedy: bool = False
    agreed: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of the longer answer."""
        return max(self.old.tokens, self.new.tokens)

    @property
    def comparable(self) -> bool:
        """Whether the texts can be compared: both were answered, and whole."""
        return not self.cut and self.old.status == self.new.status == 200

    @property
    def differs(self) -> bool:
        """In status, finish reason or, where it must not, in its tokens."""
        if self.old.status != self.new.status:
            return True
        return self.comparable and self.greedy and (self.old.finish != self.new.finish or self.agreed < self.tokens)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All pairs of one step.

    Attributes:
        deployment: Id of the deployment.
        pairs: Number.
        same_status: Of them.
        compared: Greedy requests whose answers are whole on both sides.
        same_finish: Of those.
        same_text: Of those.
        tokens: Of the longer answers of those, together.
        agreed: Of those tokens, the ones up to the first difference.
        old_ms: Latencies of what users got; the newest.
        new_ms: Latencies of the answers to copies of the same requests.
        differing: Pairs that differ; the newest.
    """

    deployment: str = ""
    pairs: int = 0
    same_status: int = 0
    compared: int = 0
    same_finish: int = 0
    same_text: int = 0
    tokens: int = 0
    agreed: int = 0
    old_ms: tuple[float, ...] = ()
    new_ms: tuple[float, ...] = ()
    differing: tuple[Pair, ...] = field(default=())

    def having(self, found: Iterable[Pair]) -> Comparison:
        """The same with more pairs."""
        made = self
        for pair in found:
            made = made._with(pair)
        return made

    def _with(self, pair: Pair) -> Comparison:
        text = pair.comparable and pair.greedy
        timed = pair.comparable
        return replace(
            self,
            pairs=self.pairs + 1,
            same_status=self.same_status + (pair.old.status == pair.new.status),
            compared=self.compared + text,
            same_finish=self.same_finish + (text and pair.old.finish == pair.new.finish),
            same_text=self.same_text + (text and pair.agreed == pair.tokens),
            tokens=self.tokens + (pair.tokens if text else 0),
            agreed=self.agreed + (pair.agreed if text else 0),
            old_ms=(*self.old_ms, pair.old.latency_ms)[-KEPT:] if timed else self.old_ms,
            new_ms=(*self.new_ms, pair.new.latency_ms)[-KEPT:] if timed else self.new_ms,
            differing=(*self.differing, pair)[-KEPT:] if pair.differs else self.differing,
        )

    def values(self, least: int) -> Mapping[str, float]:
        """Metrics for conditions: ``shadow.status``, ``shadow.finish``, ``shadow.tokens`` (shares), ``shadow.latency`` (ratio).

        Args:
            least: Pairs that are needed to say anything.
        """
        found: dict[str, float] = {}
        if self.pairs >= least:
            found["shadow.status"] = self.same_status / self.pairs
        if self.compared >= least:
            found["shadow.finish"] = self.same_finish / self.compared
            found["shadow.tokens"] = self.agreed / self.tokens if self.tokens else 1.0
        if len(self.old_ms) >= least and median(self.old_ms) > 0:
            found["shadow.latency"] = median(self.new_ms) / median(self.old_ms)
        return found
