"""The requests of a case, and how far they can be made smaller. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_ci.suites.speed import Speed

DIMENSIONS = ("tokens", "streams", "times")


@dataclass(frozen=True, kw_only=True)
class Round:
    """Concurrent requests, and how often they are sent.

    Attributes:
        times: Number of repetitions; a mean over the parameters of a case, so it may be fractional.
        streams: Number of concurrent responses.
        tokens: Tokens of the longest response.
        prompt_tokens: Total tokens of all prompts.
    """

    times: float
    streams: float
    tokens: float
    prompt_tokens: float

    def seconds(self, speed: Speed) -> float:
        """How long it takes at this speed."""
        prompts = max(self.prompt_tokens - self.streams * speed.short_prompt_tokens, 0) * speed.prompt_token_s
        return self.times * (speed.request(self.streams) + prompts + max(self.tokens - 1, 0) * speed.step(self.streams))


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Number of tokens, streams and repetitions of a case; 0 for those that it does not use."""

    tokens: int = 0
    streams: int = 0
    times: int = 0


@dataclass(frozen=True, kw_only=True)
class CaseCost:
    """The cost of one case.

    Attributes:
        rounds: Requests at full size.
        full: Sizes without a time limit; zeros for a case that cannot be made smaller.
        least: Smallest sizes at which the case still detects incorrect servers.
    """

    rounds: Sequence[Round] = ()
    full: Sizes = Sizes()
    least: Sizes = Sizes()

    def sizes(self, fraction: float) -> Sizes:
        """Sizes between the smallest (``fraction`` 0) and the full ones (1)."""
        return Sizes(**{name: _between(getattr(self.least, name), getattr(self.full, name), fraction) for name in DIMENSIONS})

    def seconds(self, speed: Speed, sizes: Sizes) -> float:
        """How long it takes at this speed, with these sizes."""
        share = {name: getattr(sizes, name) / full if (full := getattr(self.full, name)) else 1.0 for name in DIMENSIONS}
        return sum(_scaled(each, share).seconds(speed) for each in self.rounds)

    def with_prompts(self, factor: float) -> CaseCost:
        """The same work with prompts scaled by ``factor``, for cases that fill the context."""
        return replace(self, rounds=[replace(each, prompt_tokens=each.prompt_tokens * factor) for each in self.rounds])


def _between(least: int, full: int, fraction: float) -> int:
    return round(least + (full - least) * fraction)


def _scaled(each: Round, share: Mapping[str, float]) -> Round:
    # Sequential requests do not become fewer when there are fewer concurrent streams.
    streams = max(each.streams * share["streams"], 1.0)
    return Round(
        times=each.times * share["times"],
        streams=streams,
        tokens=each.tokens * share["tokens"],
        prompt_tokens=each.prompt_tokens * streams / each.streams,
    )
