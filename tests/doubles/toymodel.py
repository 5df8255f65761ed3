"""A model without weights: the next token is drawn from a distribution that is a pure function of all tokens before it."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from doubles.tokenizer import END, VOCABULARY

_CANDIDATES = 24
_UNLIKELY = -18.0


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to draw.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_p: Nucleus.
        top_k: Number of candidates; 0 is all of them.
        min_p: Least probability, relative to the likeliest.
        seed: Makes draws repeatable; ``None`` draws afresh.
        bias: Added to the logits of tokens.
        banned: Tokens that are not drawn.
        allowed: The only tokens that are drawn; ``None`` for all.
        frequency: Subtracted for each time that a token was said.
        presence: Subtracted once from tokens that were said.
        repetition: Divides the logits of tokens that were said, or are in the prompt; 1 changes nothing.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    bias: Mapping[int, float] = field(default_factory=dict)
    banned: frozenset[int] = frozenset()
    allowed: frozenset[int] | None = None
    frequency: float = 0.0
    presence: float = 0.0
    repetition: float = 1.0

    def source(self, choice: int) -> random.Random:
        """Random numbers of one choice of a request."""
        return random.Random(None if self.seed is None else self.seed * 1_000_003 + choice)


@lru_cache(maxsize=200_000)
def logits(prompt: int, tail: tuple[int, ...]) -> dict[int, float]:
    """Likely next tokens and their logits, after a prompt (its hash) and the end of the answer so far."""
    source = random.Random(hash((prompt, tail)))
    # About half plain text, half single bytes, so that answers hold readable pieces and characters of several tokens alike.
    tokens = {
        source.randrange(40, 134) if source.random() < 0.4 else source.randrange(8, VOCABULARY) for _ in range(_CANDIDATES)
    }
    if source.random() < 0.1:
        tokens.add(END)
    return {token: source.uniform(0.0, 3.0) for token in sorted(tokens)}


def logprobs(prompt: int, said: Sequence[int]) -> dict[int, float]:
    """Log probabilities of the likely next tokens, before any sampling parameter."""
    found = logits(prompt, (*said[-3:], len(said)))
    total = math.log(sum(map(math.exp, found.values())))
    return {token: value - total for token, value in found.items()}


def draw(
    likely: Mapping[int, float],
    sampling: Sampling,
    source: random.Random,
    prompt: Sequence[int] = (),
    said: Sequence[int] = (),
) -> int:
    """The next token, after a prompt and what was said."""
    named: set[int] = {*sampling.bias, *(sampling.allowed or ())}
    scores: dict[int, float] = {
        **likely,
        **{token: likely.get(token, _UNLIKELY) + sampling.bias.get(token, 0.0) for token in named},
    }
    scores = {token: _penalized(token, score, sampling, prompt, said) for token, score in scores.items()}
    if sampling.allowed is not None:
        scores = {token: score for token, score in scores.items() if token in sampling.allowed}
    scores = {token: score for token, score in scores.items() if token not in sampling.banned} or {0: 0.0}
    ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    if sampling.temperature == 0:
        return ranked[0][0]
    weights = [(token, math.exp(max((score - ranked[0][1]) / sampling.temperature, -700))) for token, score in ranked]
    kept = _kept(weights, sampling)
    at = source.random() * sum(weight for _, weight in kept)
    for token, weight in kept:
        at -= weight
        if at <= 0:
            return token
    return kept[-1][0]


def _penalized(token: int, score: float, sampling: Sampling, prompt: Sequence[int], said: Sequence[int]) -> float:
    """A logit after repetition, frequency and presence penalty (vLLM documentation, "Sampling Parameters")."""
    if sampling.repetition != 1 and (token in said or token in prompt):
        score = score / sampling.repetition if score > 0 else score * sampling.repetition
    if not sampling.frequency and not sampling.presence:
        return score
    count = sum(1 for each in said if each == token)
    return score - sampling.frequency * count - (sampling.presence if count else 0)


def _kept(weights: list[tuple[int, float]], sampling: Sampling) -> list[tuple[int, float]]:
    """Candidates that top_k, min_p and top_p leave, with all that are as likely as the last; the likeliest always stays."""
    if sampling.top_k > 0:
        weights = [pair for pair in weights if pair[1] >= weights[: sampling.top_k][-1][1]]
    weights = [pair for pair in weights if pair[1] >= sampling.min_p * weights[0][1]]
    total = sum(weight for _, weight in weights)
    covered = 0.0
    for _, last in weights:
        covered += last
        if covered >= sampling.top_p * total:
            return [pair for pair in weights if pair[1] >= last]
    return weights


def scored(prompt: Sequence[int]) -> list[float | None]:
    """Log probability of each token of a prompt after those before it; the first has none before it."""
    start = hash(())
    return [None, *(logprobs(start, prompt[:at]).get(prompt[at], _UNLIKELY) for at in range(1, len(prompt)))]
