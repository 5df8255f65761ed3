"""Defects of limits and crowds."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from doubles import asked as asking
from doubles.asked import Asked
from doubles.bodies import Json
from doubles.defects.catalogue import defect
from doubles.generation import Generation
from doubles.refusal import RefusedError
from doubles.server import IN_COMPANY_S, Double
from doubles.toymodel import Sampling

LIMITS = "integration/test_limits.py::test_"
CONCURRENCY = "integration/test_concurrency.py::test_"


@defect("long-prompts-are-cut", "A prompt over the limit is cut silently.", f"{LIMITS}a_prompt_over_the_limit_is_refused")
class LongPromptsAreCut(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        prompt = body.get("prompt")
        return super().asked(
            {**body, "prompt": prompt[: asking.MAX_LENGTH - 8]} if isinstance(prompt, list) else body, chat=chat
        )


@defect("limit-off-by-one", "A prompt that just fits is refused.", f"{LIMITS}a_prompt_at_the_limit_is_served")
class LimitOffByOne(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        found = super().asked(body, chat=chat)
        if max(map(len, found.prompts)) >= asking.MAX_LENGTH - 1:
            raise RefusedError(f"This model's maximum context length is {asking.MAX_LENGTH} tokens.")
        return found


@defect("limit-crashes", "A prompt over the limit is answered 500.", f"{LIMITS}a_prompt_over_the_limit_is_refused")
class LimitCrashes(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        try:
            return super().asked(body, chat=chat)
        except RefusedError as error:
            status = 500 if "maximum context length" in error.message else error.status
            raise RefusedError(error.message, status=status) from error


@defect(
    "conversations-are-cut",
    "A conversation over the limit is cut silently.",
    f"{LIMITS}a_conversation_over_the_limit_is_refused",
)
class ConversationsAreCut(Double):
    def rendered(self, body: Json) -> list[int]:
        return super().rendered(body)[-asking.MAX_LENGTH + 100 :]


@defect(
    "too-much-is-generated",
    "A max_tokens above the limit is believed.",
    f"{LIMITS}more_tokens_than_the_limit_are_not_generated",
)
class TooMuchIsGenerated(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        wanted = body.get("max_tokens")
        large = isinstance(wanted, int) and wanted > asking.MAX_LENGTH
        found = super().asked({**body, "max_tokens": asking.MAX_LENGTH} if large else body, chat=chat)
        return replace(found, max_tokens=32) if large else found


@defect("over-the-limit", "Answers go over the limit.", f"{LIMITS}prompt_and_answer_together_stay_within_the_limit")
class OverTheLimit(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        found = super().asked(body, chat=chat)
        return replace(found, max_tokens=min(body.get("max_tokens") or 16, 64)) if len(found.prompts[0]) > 2000 else found


@defect("middle-is-lost", "The middle of long prompts is lost.", f"{LIMITS}a_long_prompt_arrives_whole")
class MiddleIsLost(Double):
    def echoed(self, asked: Asked, generation: Generation) -> str:
        text = super().echoed(asked, generation)
        return text if len(text) < 1000 else text[:400] + text[-400:]


@defect(
    "answers-are-swapped",
    "Concurrent requests get each other's answer.",
    f"{CONCURRENCY}concurrent_answers_belong_to_their_questions",
)
class AnswersAreSwapped(Double):
    token_s = IN_COMPANY_S

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.last: Asked | None = None

    def echoed(self, asked: Asked, generation: Generation) -> str:
        other, self.last = self.last, asked
        return super().echoed(other if other and self.counts["running"] > 1 and len(other.texts) == 1 else asked, generation)


@defect(
    "prompts-are-shared",
    "Concurrent chats get the prompt of one of them.",
    f"{CONCURRENCY}concurrent_conversations_have_prompts_of_their_own",
)
class PromptsAreShared(Double):
    token_s = IN_COMPANY_S

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.last: list[int] = []

    def rendered(self, body: Json) -> list[int]:
        own = super().rendered(body)
        if not (self.counts["running"] and self.last):
            self.last = own
        return self.last


@defect(
    "counts-of-others",
    "Concurrent requests count the tokens of another.",
    f"{CONCURRENCY}concurrent_requests_count_their_own_tokens",
)
class CountsOfOthers(Double):
    token_s = IN_COMPANY_S

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.largest = 0

    def usage(self, asked: Asked, prompt_tokens: int, completion_tokens: int) -> Json:
        self.largest = max(self.largest, prompt_tokens) if self.counts["running"] > 1 else prompt_tokens
        return super().usage(asked, self.largest, completion_tokens)


@defect(
    "crowds-are-refused",
    "What does not fit into the batch is refused.",
    f"{CONCURRENCY}more_requests_than_slots_are_all_answered",
    alone=True,
)
class CrowdsAreRefused(Double):
    # Slow enough that requests of a client without processor time run at the same time nevertheless.
    token_s = 0.02

    def generations(self, asked: Asked) -> list[Generation]:
        if self.counts["running"] > 8:
            raise RefusedError("no slot is free", status=503, kind="ServiceUnavailableError")
        return super().generations(asked)


@defect("seeds-are-shared", "A seed draws differently in company.", f"{CONCURRENCY}seeded_answers_do_not_depend_on_the_company")
class SeedsAreShared(Double):
    token_s = IN_COMPANY_S

    def sampling(self, asked: Asked) -> Sampling:
        return replace(asked.sampling, seed=None) if self.counts["running"] > 1 else asked.sampling


@defect(
    "one-at-a-time",
    "While an answer is made, nobody else is answered.",
    f"{CONCURRENCY}more_requests_than_slots_are_all_answered",
    alone=True,
)
class OneAtATime(Double):
    token_s = IN_COMPANY_S

    async def pieces(self, generation: Generation) -> Any:
        if self.counts["running"] > 1:
            await asyncio.sleep(0.001)
            raise RefusedError("busy", status=503, kind="ServiceUnavailable")
        return await super().pieces(generation)
