"""One answer as it comes into being, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from doubles import tokenizer, toymodel
from doubles.asked import Asked
from doubles.toymodel import Sampling


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one token brings.

    Attributes:
        token: Its id.
        text: What can be shown now; empty while a character is incomplete or a stop string may be beginning.
        logprob: Of the token.
        candidates: Likely tokens in its place, the likeliest first, with their log probabilities.
    """

    token: int
    text: str
    logprob: float
    candidates: tuple[tuple[int, float], ...] = ()


@dataclass(kw_only=True)
class Generation:
    """An answer in the making.

    Attributes:
        asked: The request.
        prompt: Token ids it goes on from.
        choice: Which of the ``n`` choices of its prompt this is.
        index: Index of the choice in the whole answer.
        sampling: How to draw.
        tokens: Those drawn so far.
        text: What was shown so far.
        finish_reason: ``stop``, ``length`` or ``tool_calls``; empty while there is more.
        stop_reason: The string or token that ended it.
        called: A stream has named the function that it calls.
    """

    asked: Asked
    prompt: Sequence[int]
    choice: int
    index: int
    sampling: Sampling
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str = ""
    stop_reason: int | str | None = None
    called: bool = False

    def __post_init__(self) -> None:
        self._source = self.sampling.source(self.choice)
        self._start = hash(tuple(self.prompt))
        self._decoder = tokenizer.Decoder()
        self._held = ""
        self._forced = tokenizer.encode(self.asked.forced)

    def step(self) -> Piece | None:
        """The next token, or nothing when the answer is at its end."""
        if self.finish_reason:
            return None
        likely = self.likely()
        token = self._next(likely)
        self.tokens.append(token)
        self._held += self._decoder.add(token)
        self._end(token)
        if self.finish_reason:
            self._held += self._rest()
        shown = self._shown()
        self.text += shown
        ranked = sorted(likely.items(), key=lambda item: (-item[1], item[0]))
        candidates = tuple(ranked[: self.asked.logprobs or 0])
        return Piece(token=token, text=shown, logprob=likely.get(token, -18.0), candidates=candidates)

    def likely(self) -> dict[int, float]:
        """Log probabilities of the likely next tokens, before any sampling parameter."""
        return toymodel.logprobs(self._start, self.tokens)

    def _next(self, likely: dict[int, float]) -> int:
        if self._forced:
            return self._forced[len(self.tokens)]
        early = len(self.tokens) < self.asked.min_tokens
        banned = frozenset({tokenizer.END, *self.asked.stop_ids}) if early else frozenset()
        banned |= {word[-1] for word in self.asked.bad_words if self._said(word[:-1])}
        sampling = toymodel.Sampling(**{**vars(self.sampling), "banned": banned}) if banned else self.sampling
        return toymodel.draw(likely, sampling, self._source, self.prompt, self.tokens)

    def _said(self, words: Sequence[int]) -> bool:
        """Whether the answer so far ends in these tokens."""
        return not words or self.tokens[-len(words) :] == list(words)

    def _end(self, token: int) -> None:
        """Whether this token, or what can be read now, ends the answer."""
        found = [(at, stop) for stop in self.asked.stops if (at := self._held.find(stop)) >= 0]
        if self._forced and len(self.tokens) == len(self._forced):
            self.finish_reason = "tool_calls" if self.asked.call else "stop"
        elif token in self.asked.stop_ids:
            self.finish_reason, self.stop_reason = "stop", token
        elif found:
            at, stop = min(found)
            self._held = self._held[: at + (len(stop) if self.asked.keep_stop else 0)]
            self.finish_reason, self.stop_reason = "stop", stop
        elif token == tokenizer.END and not self.asked.ignore_eos:
            self.finish_reason = "stop"
        elif len(self.tokens) >= self.asked.max_tokens:
            self.finish_reason = "length"

    def _rest(self) -> str:
        """Bytes of a character that never became whole, as a replacement character; nothing behind a stop."""
        return "" if self.stop_reason is not None else self._decoder.add(tokenizer.BEGIN, last=True)

    def _shown(self) -> str:
        """Text that cannot be the beginning of a stop string any more."""
        keep = 0 if self.finish_reason else max((len(stop) - 1 for stop in self.asked.stops), default=0)
        shown = self._held[: len(self._held) - keep] if keep < len(self._held) else ""
        self._held = self._held[len(shown) :]
        return shown
