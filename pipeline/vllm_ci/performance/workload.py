"""Named, versioned, seeded workloads: what is asked, with published distributions of lengths. Pure functions.

Lengths follow log-normal distributions with the median and mean of public traces. Prompts consist of words that are one token
each in most tokenizers; the caller can give words of the served model's tokenizer, so that counts are exact.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any, ClassVar, Protocol

from vllm_ci.performance.seeds import seeded

Json = dict[str, Any]
WORDS = tuple(resources.files(__package__).joinpath("words.txt").read_text(encoding="ascii").split())
"""Common English words, which most tokenizers have as one token each."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """A log-normal distribution of token counts.

    Attributes:
        median: Median.
        mean: Mean; not below the median.
        largest: Longer draws are drawn again.
    """

    median: float
    mean: float
    largest: int

    def draw(self, rng: random.Random) -> int:
        """One count, at least 1."""
        sigma = math.sqrt(2 * math.log(max(self.mean / self.median, 1.0)))
        for _ in range(100):
            count = round(rng.lognormvariate(math.log(self.median), sigma))
            if 1 <= count <= self.largest:
                return count
        return min(round(self.median), self.largest)

    def within(self, factor: float) -> Lengths:
        """The same distribution, scaled to a shorter context."""
        return replace(
            self,
            median=max(self.median * factor, 1),
            mean=max(self.mean * factor, 1),
            largest=max(int(self.largest * factor), 1),
        )


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One request of a workload.

    Attributes:
        messages: Chat messages.
        prompt_tokens: Tokens of the text of all messages, without what a chat template adds.
        output_tokens: Tokens to generate.
        fields: Further fields of the request, such as ``response_format``.
        follows: Number of the request whose answer comes first: the one before it, whose conversation it continues. ``None``
            starts a conversation.
        at_s: Seconds after the start at which it is due, in a recorded trace.
    """

    messages: tuple[Mapping[str, str], ...]
    prompt_tokens: int
    output_tokens: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    follows: int | None = None
    at_s: float | None = None


class Requests(Protocol):
    """Where requests come from: a synthetic workload, or a file."""

    @property
    def id(self) -> str:
        """Name and version, for reports."""

    @property
    def source(self) -> str:
        """Where its lengths come from."""

    @property
    def fixed_length(self) -> bool:
        """Answers have the requested number of tokens, if the server can be told to go on."""

    @property
    def timed(self) -> bool:
        """Requests have times of their own."""

    def fitting(self, max_model_len: int) -> tuple[Requests, float]:
        """The same for a server with a shorter context, and the factor by which lengths are scaled."""

    def asks(self, *, seed: int, words: Sequence[str], tokens_per_word: float) -> Iterator[Ask]:
        """The requests in order."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A synthetic workload.

    Attributes:
        name: Its name.
        version: Raised when its requests change, because results of different versions cannot be compared.
        source: Where the distributions of its lengths were published.
        prompt: Lengths of new text in a request.
        output: Lengths of answers.
        shared: Tokens at the start of every prompt that all requests share.
        turns: Requests of a conversation; each repeats all that was said before.
        structured: Answers follow a JSON schema.
    """

    name: str
    version: int
    source: str
    prompt: Lengths
    output: Lengths
    shared: int = 0
    turns: int = 1
    structured: bool = False

    timed: ClassVar[bool] = False

    @property
    def id(self) -> str:
        """Name and version, for reports: ``chat-v1``."""
        return f"{self.name}-v{self.version}"

    @property
    def fixed_length(self) -> bool:
        """A JSON schema ends answers where it is complete."""
        return not self.structured

    def fitting(self, max_model_len: int) -> tuple[Workload, float]:
        """The workload for a server with a shorter context, and the factor by which its lengths are scaled.

        Args:
            max_model_len: Longest sequence of the server in tokens; 0 if unknown.
        """
        longest = self.shared + self.turns * (self.prompt.largest + self.output.largest)
        room = max_model_len - _TEMPLATE_TOKENS * self.turns
        if not max_model_len or longest <= room:
            return self, 1.0
        factor = max(room, 1) / longest
        scaled = replace(
            self, prompt=self.prompt.within(factor), output=self.output.within(factor), shared=int(self.shared * factor)
        )
        return scaled, factor

    def asks(self, *, seed: int, words: Sequence[str] = WORDS, tokens_per_word: float = 1.0) -> Iterator[Ask]:
        """Its requests, without end.

        Args:
            seed: The same seed gives the same requests.
            words: Words to build prompts from, each one token with a space before it.
            tokens_per_word: Tokens that a word has on average, if words are not one token each.
        """
        rng = seeded(self.id, seed)

        def text(generator: random.Random, tokens: int) -> str:
            return " ".join(generator.choices(words, k=max(round(tokens / tokens_per_word), 1)))

        common = text(seeded(self.id, "shared", seed), self.shared) if self.shared else ""
        number = 0
        while True:
            history: list[Mapping[str, str]] = [{"role": "system", "content": common}] if common else []
            before, said = None, self.shared
            for _ in range(self.turns):
                length, output = self.prompt.draw(rng), self.output.draw(rng)
                history.append({"role": "user", "content": text(rng, length)})
                said += length
                yield Ask(
                    messages=tuple(history),
                    prompt_tokens=said,
                    output_tokens=output,
                    fields={"response_format": _SCHEMA} if self.structured else {},
                    follows=before,
                )
                history.append({"role": "assistant", "content": text(rng, output)})
                said += output
                before, number = number, number + 1


_TEMPLATE_TOKENS = 64
"""Room for what a chat template adds to a message."""
_SCHEMA: Json = {
    "type": "json_schema",
    "json_schema": {
        "name": "record",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"title": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}},
            "required": ["title", "tags"],
            "additionalProperties": False,
        },
    },
}
_AZURE = "Azure LLM inference trace 2023 (Patel et al., Splitwise, ISCA 2024)"


def _named(*workloads: Workload) -> Mapping[str, Workload]:
    return {workload.name: workload for workload in workloads}


WORKLOADS: Mapping[str, Workload] = _named(
    Workload(
        name="chat",
        version=1,
        source=f"{_AZURE}, conversation: prompts of 1020 tokens in the median and 1155 in the mean, answers of 129 and 211",
        prompt=Lengths(median=1020, mean=1155, largest=4096),
        output=Lengths(median=129, mean=211, largest=1000),
    ),
    Workload(
        name="code",
        version=1,
        source=f"{_AZURE}, code: prompts of 1500 tokens in the median and 2048 in the mean, answers of 13 and 28",
        prompt=Lengths(median=1500, mean=2048, largest=7437),
        output=Lengths(median=13, mean=28, largest=500),
    ),
    Workload(
        name="long-context",
        version=1,
        source="synthetic: prompts of 8000 tokens in the median, answers as in chat",
        prompt=Lengths(median=8000, mean=9000, largest=24_000),
        output=Lengths(median=129, mean=211, largest=1000),
    ),
    Workload(
        name="multi-turn",
        version=1,
        source="synthetic: conversations of 4 turns, each of 120 tokens in the median, answers as in chat",
        prompt=Lengths(median=120, mean=160, largest=1000),
        output=Lengths(median=129, mean=211, largest=600),
        turns=4,
    ),
    Workload(
        name="shared-prefix",
        version=1,
        source="synthetic: 1000 tokens that all requests share, then 120 in the median, answers as in chat",
        prompt=Lengths(median=120, mean=160, largest=1000),
        output=Lengths(median=129, mean=211, largest=600),
        shared=1000,
    ),
    Workload(
        name="structured",
        version=1,
        source="synthetic: prompts of 200 tokens in the median, answers of 100 in a JSON schema",
        prompt=Lengths(median=200, mean=250, largest=1000),
        output=Lengths(median=100, mean=110, largest=300),
        structured=True,
    ),
)
