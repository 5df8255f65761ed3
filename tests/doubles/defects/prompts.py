"""Defects of what goes in: prompts and texts in other forms, conversations, caches, and how a request is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from doubles import asked as asking
from doubles.asked import Asked
from doubles.bodies import Json
from doubles.defects.catalogue import defect
from doubles.generation import Generation
from doubles.refusal import RefusedError
from doubles.server import Double
from doubles.wire import Request, Response, as_json

COMPLETIONS = "integration/test_completions.py::test_"
REQUESTS = "integration/test_requests.py::test_"
_BLOCK = 16


@defect(
    "only-the-first-list-of-ids",
    "Of several prompts of token ids only the first is answered.",
    f"{COMPLETIONS}a_batch_of_token_ids_answers_every_prompt",
)
class OnlyTheFirstListOfIds(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        prompt = body.get("prompt")
        lists = isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], list)
        return super().asked({**body, "prompt": prompt[:1]} if lists and isinstance(prompt, list) else body, chat=chat)


@defect(
    "blanks-around-prompts-are-lost",
    "White space at both ends of a prompt is dropped.",
    f"{COMPLETIONS}echo_keeps_every_character",
    "integration/test_usage.py::test_prompt_tokens_are_those_of_the_tokenizer",
)
class BlanksAroundPromptsAreLost(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        prompt = body.get("prompt")
        blank = not chat and isinstance(prompt, str) and prompt.strip()
        return super().asked({**body, "prompt": blank} if blank else body, chat=chat)


class Caches(Double):
    """Knows which prompts came before."""

    came_before = False

    def cached(self, asked: Asked, salt: str) -> None:
        self.came_before = all((salt, hash(prompt)) in self._prefixes for prompt in asked.prompts)
        super().cached(asked, salt)


@defect(
    "cached-tokens-are-not-counted",
    "The tokens of a prompt that are in the cache are not counted.",
    "integration/test_usage.py::test_details_count_no_more_than_the_whole",
)
class CachedTokensAreNotCounted(Caches):
    def usage(self, asked: Asked, prompt_tokens: int, completion_tokens: int) -> Json:
        fresh = (prompt_tokens - 1) % _BLOCK + 1
        return super().usage(asked, fresh if self.came_before else prompt_tokens, completion_tokens)


@defect(
    "cached-tokens-have-no-log-probabilities",
    "The tokens of a prompt that are in the cache have no log probabilities.",
    "integration/test_parameters.py::test_a_prompt_that_came_before_has_all_its_log_probabilities[chat]",
    "integration/test_parameters.py::test_a_prompt_that_came_before_has_all_its_log_probabilities[completions]",
    alone=True,
)
class CachedTokensHaveNoLogProbabilities(Caches):
    def scores(self, asked: Asked, generation: Generation) -> list[Json | None] | None:
        found = super().scores(asked, generation)
        return found[(len(found) - 1) // _BLOCK * _BLOCK :] if found and self.came_before else found


@defect(
    "parts-of-the-assistant-are-dropped",
    "What the assistant said is dropped where it comes in parts.",
    "integration/test_conversation.py::test_earlier_answers_may_come_in_parts",
)
class PartsOfTheAssistantAreDropped(Double):
    def rendered(self, body: Json) -> list[int]:
        asking.messages(body)
        messages = [
            {**each, "content": ""} if each["role"] == "assistant" and isinstance(each.get("content"), list) else each
            for each in body["messages"]
        ]
        return super().rendered({**body, "messages": messages})


@defect(
    "earlier-calls-are-dropped",
    "The calls of earlier answers do not reach the prompt.",
    "integration/test_tools.py::test_an_earlier_call_is_part_of_the_conversation",
)
class EarlierCallsAreDropped(Double):
    def rendered(self, body: Json) -> list[int]:
        asking.messages(body)
        messages = [{name: value for name, value in each.items() if name != "tool_calls"} for each in body["messages"]]
        return super().rendered({**body, "messages": messages})


@defect(
    "long-texts-are-embedded-in-part",
    "A text over the limit is cut before it is embedded.",
    "integration/test_embeddings.py::test_a_text_over_the_limit_is_not_cut",
)
class LongTextsAreEmbeddedInPart(Double):
    def embedded(self, body: Json) -> Response:
        given = body.get("input")
        return super().embedded({**body, "input": given[: asking.MAX_LENGTH]} if isinstance(given, str) else body)


@defect("charsets-are-refused", "A content type with a charset is answered 415.", f"{REQUESTS}a_charset_does_no_harm")
class CharsetsAreRefused(Double):
    def body(self, request: Request) -> Json:
        if "charset" in request.headers.get("content-type", ""):
            raise RefusedError("Unsupported Media Type: Only 'application/json' is allowed", status=415)
        return super().body(request)


@defect("chunked-bodies-are-empty", "A body in chunks is taken for an empty one.", f"{REQUESTS}a_body_in_chunks_is_read")
class ChunkedBodiesAreEmpty(Double):
    def body(self, request: Request) -> Json:
        if request.headers.get("transfer-encoding"):
            request.body = b""
        return super().body(request)


@defect(
    "an-adapter-is-listed-and-unknown",
    "The list of models has an adapter that requests do not find.",
    "integration/test_models.py::test_every_adapter_in_the_list_answers",
)
class AnAdapterIsListedAndUnknown(Double):
    def got(self, path: str) -> Response:
        cards = [self.card(), {**self.card(), "id": "double-adapter", "parent": self.model}]
        return as_json({"object": "list", "data": cards}) if path == "/v1/models" else super().got(path)


@defect(
    "streams-are-not-in-the-metrics",
    "The metrics count no streams.",
    "integration/test_usage.py::test_the_servers_metrics_count_streams",
)
class StreamsAreNotInTheMetrics(Double):
    def count(self, asked: Asked, generations: Sequence[Generation]) -> None:
        if not asked.stream:
            super().count(asked, generations)


@defect(
    "completions-have-no-default-length",
    "A completion without max_tokens has no limit of 16 tokens.",
    f"{COMPLETIONS}a_completion_has_sixteen_tokens_by_default",
)
class CompletionsHaveNoDefaultLength(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        default: dict[str, Any] = {} if chat or body.get("max_tokens") is not None else {"max_tokens": 64}
        return super().asked({**body, **default}, chat=chat)
