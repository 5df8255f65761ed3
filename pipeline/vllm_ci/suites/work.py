"""What a case asks of a server, and what of it may be made smaller. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_ci.suites.speed import Speed

DIMENSIONS = ("tokens", "streams", "times")


@dataclass(frozen=True, kw_only=True)
class Round:
    """Requests that are sent at the same time, and how often that is done.

    Attributes:
        times: How often; a mean over the parameters of a case, so not always a whole number.
        streams: Answers that are made at the same time.
        tokens: Of the longest answer among them.
        prompt_tokens: Of all their prompts together.
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
    """How many tokens, streams and repetitions a case asks for; 0 where it has no such number of its own."""

    tokens: int = 0
    streams: int = 0
    times: int = 0


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one case costs a server.

    Attributes:
        rounds: At full size.
        full: Sizes when there is time enough; zeros for a case that cannot be made smaller.
        least: The smallest sizes at which the case still tells a right server from a wrong one.
    """

    rounds: Sequence[Round] = ()
    full: Sizes = Sizes()
    least: Sizes = Sizes()

    def sizes(self, fraction: float) -> Sizes:
        """Sizes between the least (0) and the full ones (1)."""
        return Sizes(**{name: _between(getattr(self.least, name), getattr(self.full, name), fraction) for name in DIMENSIONS})

    def seconds(self, speed: Speed, sizes: Sizes) -> float:
        """How long it takes at this speed, with these sizes."""
        share = {name: getattr(sizes, name) / full if (full := getattr(self.full, name)) else 1.0 for name in DIMENSIONS}
        return sum(_scaled(each, share).seconds(speed) for each in self.rounds)

    def with_prompts(self, factor: float) -> Work:
        """The same with prompts of other lengths: cases that fill the context cost more where it is longer."""
        return replace(self, rounds=[replace(each, prompt_tokens=each.prompt_tokens * factor) for each in self.rounds])


def _between(least: int, full: int, fraction: float) -> int:
    return round(least + (full - least) * fraction)


def _scaled(each: Round, share: Mapping[str, float]) -> Round:
    # What is asked one after the other does not get less when fewer ask at the same time.
    streams = max(each.streams * share["streams"], 1.0)
    return Round(
        times=each.times * share["times"],
        streams=streams,
        tokens=each.tokens * share["tokens"],
        prompt_tokens=each.prompt_tokens * streams / each.streams,
    )
