"""Workloads from a file: requests that a user wrote or recorded, and production traces of lengths and arrival times."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm_ci.performance.seeds import seeded
from vllm_ci.performance.workload import Ask

BLOCK_TOKENS = 512
"""Tokens of a block of a Mooncake trace (Qin et al., FAST 2025): requests with the same ``hash_ids`` share their text."""
_TEMPLATE_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Written:
    """A request with text, or a turn of a conversation.

    Attributes:
        messages: Chat messages.
        output_tokens: Tokens to generate at most.
        fields: Its further fields.
        later: It continues the conversation of the request before it.
        at_s: When it arrived, in seconds; ``None`` if unknown.
    """

    messages: tuple[Mapping[str, str], ...]
    output_tokens: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    later: bool = False
    at_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Traced:
    """A request of a trace: lengths without text.

    Attributes:
        prompt_tokens: Length of the prompt.
        output_tokens: Length of the answer.
        at_s: When it arrived, in seconds; ``None`` if unknown.
        blocks: Ids of the blocks that its prompt consists of, if the trace has them.
    """

    prompt_tokens: int
    output_tokens: int
    at_s: float | None = None
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A workload from a file. Without arrival times it starts over at its end.

    Attributes:
        name: Name of the file.
        digest: SHA-256 of the file, in hexadecimal.
        form: What the file holds, in words.
        written: Its requests with text; empty for a trace.
        traced: Its requests without text.
        timed: Requests are sent at the file's times.
        factor: Lengths of a trace are multiplied by this.
    """

    name: str
    digest: str
    form: str
    written: tuple[Written, ...] = ()
    traced: tuple[Traced, ...] = ()
    timed: bool = False
    factor: float = 1.0

    @property
    def id(self) -> str:
        """Name of the file and the start of its digest: results of different files cannot be compared."""
        return f"{self.name}@{self.digest[:12]}"

    @property
    def source(self) -> str:
        """What the file holds."""
        return f"{self.form}, {len(self.written) or len(self.traced)} requests"

    @property
    def fixed_length(self) -> bool:
        """Answers of a trace have its lengths; those to written requests end where the model ends them."""
        return bool(self.traced)

    def fitting(self, max_model_len: int) -> tuple[Recorded, float]:
        """A trace with lengths scaled to a server's context, and the factor. Text is never shortened."""
        longest = max((each.prompt_tokens + each.output_tokens for each in self.traced), default=0) * self.factor
        room = max_model_len - _TEMPLATE_TOKENS
        if not max_model_len or longest <= room:
            return self, self.factor
        factor = self.factor * max(room, 1) / longest
        return dataclasses.replace(self, factor=factor), factor

    def asks(self, *, seed: int, words: Sequence[str], tokens_per_word: float = 1.0) -> Iterator[Ask]:
        """Its requests in the order of the file.

        Args:
            seed: Of the text of a trace.
            words: Words to build the text of a trace from.
            tokens_per_word: Tokens that such a word has.
        """
        entries: Iterator[Ask] = (
            self._texts() if self.written else self._of_lengths(seed=seed, words=words, tokens_per_word=tokens_per_word)
        )
        return entries

    @property
    def _rounds(self) -> Iterator[int]:
        return iter((0,)) if self.timed else itertools.count()

    def _texts(self) -> Iterator[Ask]:
        number = 0
        begin = self.written[0].at_s or 0.0
        for _ in self._rounds:
            for each in self.written:
                yield Ask(
                    messages=each.messages,
                    prompt_tokens=0,
                    output_tokens=each.output_tokens,
                    fields=each.fields,
                    follows=number - 1 if each.later else None,
                    at_s=None if each.at_s is None else each.at_s - begin,
                )
                number += 1

    def _of_lengths(self, *, seed: int, words: Sequence[str], tokens_per_word: float) -> Iterator[Ask]:
        def text(tokens: float, *what: object) -> str:
            count = max(math.floor(tokens / tokens_per_word + 0.5), 1)
            return " ".join(seeded(self.id, seed, *what).choices(words, k=count))

        begin = self.traced[0].at_s or 0.0
        for again in self._rounds:
            for number, each in enumerate(self.traced):
                prompt = max(math.floor(each.prompt_tokens * self.factor), 1)
                if each.blocks:
                    block = max(math.floor(BLOCK_TOKENS * self.factor), 1)
                    left = [min(block, prompt - block * place) for place in range(len(each.blocks))]
                    parts = [
                        text(block, "block", name).split(" ")[: max(math.floor(tokens / tokens_per_word + 0.5), 1)]
                        for name, tokens in zip(each.blocks, left, strict=True)
                        if tokens > 0
                    ]
                    content = " ".join(itertools.chain.from_iterable(parts))
                else:
                    content = text(prompt, again, number)
                yield Ask(
                    messages=({"role": "user", "content": content},),
                    prompt_tokens=prompt,
                    output_tokens=max(math.floor(each.output_tokens * self.factor), 1),
                    at_s=None if each.at_s is None else each.at_s - begin,
                )
