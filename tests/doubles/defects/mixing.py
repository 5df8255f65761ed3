"""Servers that mix up answers: those of simultaneous requests, or an earlier one for another prompt."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from doubles.asked import Asked
from doubles.bodies import Json
from doubles.defects.catalogue import defect
from doubles.server import IN_COMPANY_S, Double
from doubles.wire import Connection, Response

CONCURRENCY = "integration/test_concurrency.py::test_"
SEPARATION = "integration/test_separation.py::test_"
REPEATED = f"{SEPARATION}an_earlier_answer_is_not_repeated_for_another_prompt"
_HEAD = 24


@defect(
    "whole-requests-are-swapped",
    "A request that comes while another one runs is answered with the prompt and the length of that one.",
    f"{CONCURRENCY}concurrent_answers_are_those_that_the_prompts_get_alone",
    f"{CONCURRENCY}concurrent_conversations_have_prompts_of_their_own",
)
class WholeRequestsAreSwapped(Double):
    token_s = IN_COMPANY_S

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.last: Asked | None = None

    async def completed(self, asked: Asked, body: Json, connection: Connection) -> Response | None:
        other, self.last = self.last, asked
        if (
            other is not None
            and self.counts["running"]
            and (len(other.prompts), other.chat) == (len(asked.prompts), asked.chat)
        ):
            asked = replace(asked, prompts=other.prompts, texts=other.texts, max_tokens=other.max_tokens)
        return await super().completed(asked, body, connection)


class Caches(Double):
    """Answers a prompt like the first one with the same parameters and the same key."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.first: dict[Hashable, Asked] = {}

    def key_of(self, asked: Asked) -> Hashable:  # noqa: ARG002 - defects look at it
        """What is looked at of the prompts."""
        return None

    async def completed(self, asked: Asked, body: Json, connection: Connection) -> Response | None:
        parameters = (asked.chat, asked.max_tokens, asked.n, repr(asked.sampling), asked.stops, len(asked.prompts))
        first = self.first.setdefault((parameters, self.key_of(asked)), asked)
        return await super().completed(replace(asked, prompts=first.prompts, texts=first.texts), body, connection)


@defect("a-cache-without-the-prompt", "The key of a cache has the parameters of a request only.", REPEATED, alone=True)
class ACacheWithoutThePrompt(Caches):
    pass


@defect("a-cache-of-lengths", "The key of a cache has the length of the prompt instead of the prompt.", REPEATED, alone=True)
class ACacheOfLengths(Caches):
    def key_of(self, asked: Asked) -> Hashable:
        return tuple(map(len, asked.prompts))


@defect("a-cache-of-heads", "The key of a cache has the beginning of the prompt only.", REPEATED, alone=True)
class ACacheOfHeads(Caches):
    def key_of(self, asked: Asked) -> Hashable:
        return tuple(prompt[:_HEAD] for prompt in asked.prompts)


@defect(
    "a-cache-of-ends",
    "The key of a cache has the end of the prompt only, as if only the last message counted.",
    REPEATED,
    alone=True,
)
class ACacheOfEnds(Caches):
    def key_of(self, asked: Asked) -> Hashable:
        return tuple(prompt[-_HEAD:] for prompt in asked.prompts)
