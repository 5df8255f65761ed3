"""Defects of answers in one piece: what they say, how they are drawn, where they end, what they count."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Sequence
from typing import Any

from doubles import asked as asking
from doubles import tokenizer
from doubles.asked import Asked
from doubles.bodies import Json
from doubles.defects.catalogue import defect
from doubles.generation import Generation, Piece
from doubles.refusal import RefusedError
from doubles.server import Double
from doubles.wire import Response, as_json

MODELS = "integration/test_models.py::test_"
CHAT = "integration/test_chat.py::test_"
COMPLETIONS = "integration/test_completions.py::test_"
CONVERSATION = "integration/test_conversation.py::test_"
USAGE = "integration/test_usage.py::test_"
EMBEDDINGS = "integration/test_embeddings.py::test_"


@defect(
    "wrong-model-name",
    "Answers name a model that nobody asked for.",
    f"{MODELS}a_completion_names_the_model_that_was_asked",
    f"{MODELS}a_chat_completion_names_the_model_that_was_asked",
)
class WrongModelName(Double):
    def model_said(self, asked: Asked) -> str:  # noqa: ARG002
        return "another"


@defect("models-without-shape", "The model list is a bare list of names.", f"{MODELS}lists_its_models_as_the_wire_format_says")
class ModelsWithoutShape(Double):
    def card(self) -> Json:
        return {"id": self.model, "object": "engine"}


@defect("unhealthy", "The health route fails while the server works.", f"{MODELS}says_that_it_is_healthy")
class Unhealthy(Double):
    def got(self, path: str) -> Response:
        return Response(status=503) if path == "/health" else super().got(path)


@defect(
    "500-after-the-fiftieth", "After fifty requests every one fails.", f"{MODELS}answers_the_fortieth_request_like_the_first"
)
class FailsAfterTheFiftieth(Double):
    def number(self) -> int:
        found = super().number()
        if found > 50:  # the plugin's own questions come first
            raise RefusedError("too many open files", status=500, kind="InternalServerError")
        return found


@defect("object-of-completions", "A chat answers with the object of a completion.", f"{CHAT}is_a_chat_completion_object")
class ObjectOfCompletions(Double):
    def head(self, asked: Asked, name: str, created: int, kind: str) -> Json:
        return super().head(asked, name, created, "text_completion" if kind == "chat.completion" else kind)


@defect("the-user-speaks", "The answer's role is `user`.", f"{CHAT}holds_one_choice_by_the_assistant")
class TheUserSpeaks(Double):
    def message(self, asked: Asked, text: str) -> Json:
        return {**super().message(asked, text), "role": "user"}


@defect("no-reason", "An answer does not say why it ended.", f"{CHAT}says_why_it_ended")
class NoReason(Double):
    def finish_said(self, generation: Generation) -> str:
        return "" if generation.asked.chat and not generation.asked.stream else super().finish_said(generation)


@defect("created-in-milliseconds", "The time of creation is in milliseconds.", f"{CHAT}says_when_it_was_made")
class CreatedInMilliseconds(Double):
    def head(self, asked: Asked, name: str, created: int, kind: str) -> Json:
        return super().head(asked, name, created * 1000, kind)


@defect("one-id-for-all", "All answers have the same id.", f"{CHAT}every_answer_has_an_id_of_its_own")
class OneIdForAll(Double):
    def number(self) -> int:
        return 1


@defect("system-message-dropped", "System messages do not reach the prompt.", f"{CHAT}a_system_message_is_part_of_the_prompt")
class SystemMessageDropped(Double):
    def conversation(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        return [message for message in messages if message["role"] != "system"] or messages


@defect("text-parts-dropped", "Content in parts does not reach the prompt.", f"{CHAT}text_parts_say_the_same_as_plain_text")
class TextPartsDropped(Double):
    def rendered(self, body: Json) -> list[int]:
        messages = [
            {**message, "content": "" if isinstance(message.get("content"), list) else message.get("content")}
            for message in body.get("messages") or []
            if isinstance(message, dict)
        ]
        asking.messages(body)
        return super().rendered({**body, "messages": messages})


@defect("new-name-of-max-tokens", "max_completion_tokens is ignored.", f"{CHAT}max_completion_tokens_bounds_the_answer")
class NewNameOfMaxTokens(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        given = "max_completion_tokens" in body
        return super().asked({**body, "max_completion_tokens": None, **({"max_tokens": 64} if given else {})}, chat=chat)


@defect("closed-to-the-future", "Unknown fields are refused.", f"{CHAT}unknown_fields_do_no_harm")
class ClosedToTheFuture(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        if "a_field_of_the_future" in body:
            raise RefusedError("extra fields are not permitted")
        return super().asked(body, chat=chat)


@defect("no-echo", "echo is ignored.", f"{COMPLETIONS}echo_returns_the_prompt_before_the_answer")
class NoEcho(Double):
    def echoed(self, asked: Asked, generation: Generation) -> str:  # noqa: ARG002
        return ""


@defect(
    "ids-are-read-again",
    "Prompts of token ids get a token before them.",
    f"{COMPLETIONS}a_prompt_of_token_ids_is_the_same_prompt",
)
class IdsAreReadAgain(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        prompt = body.get("prompt")
        ids = isinstance(prompt, list) and prompt and isinstance(prompt[0], int)
        return super().asked(
            {**body, "prompt": [tokenizer.BEGIN, *prompt]} if ids and isinstance(prompt, list) else body, chat=chat
        )


@defect(
    "batch-out-of-order",
    "The answers of a batch come in another order.",
    f"{COMPLETIONS}a_batch_answers_every_prompt_in_its_order",
)
class BatchOutOfOrder(Double):
    def generations(self, asked: Asked) -> list[Generation]:
        made = super().generations(asked)
        if len(asked.prompts) > 1:
            for generation in made:
                generation.index = len(made) - 1 - generation.index
        return made


@defect(
    "batch-counts-one-prompt",
    "A batch counts its first prompt only.",
    f"{COMPLETIONS}a_batch_counts_the_tokens_of_all_its_prompts",
)
class BatchCountsOnePrompt(Double):
    def usage(self, asked: Asked, prompt_tokens: int, completion_tokens: int) -> Json:
        return super().usage(asked, min(prompt_tokens, len(asked.prompts[0])), completion_tokens)


@defect(
    "context-lost",
    "Only the last message of a conversation reaches the prompt.",
    f"{CONVERSATION}the_prompt_grows_by_what_was_said",
    f"{CONVERSATION}a_fact_planted_early_is_in_the_prompt_of_a_late_turn",
)
class ContextLost(Double):
    def conversation(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        return messages[-1:]


@defect(
    "context-is-a-window",
    "Messages before the last five are dropped silently.",
    f"{CONVERSATION}a_fact_planted_early_is_in_the_prompt_of_a_late_turn",
)
class ContextIsAWindow(Double):
    def conversation(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        return messages[-5:]


@defect("turns-change-places", "The system message comes last.", f"{CONVERSATION}turns_stay_in_their_order")
class TurnsChangePlaces(Double):
    def conversation(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        return sorted(messages, key=lambda message: message["role"] == "system")


@defect("answers-are-forgotten", "What the assistant said is dropped.", f"{CONVERSATION}earlier_answers_are_part_of_the_prompt")
class AnswersAreForgotten(Double):
    def conversation(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        return [message for message in messages if message["role"] != "assistant"]


@defect(
    "memory-of-others",
    "A prompt begins with the last conversation.",
    f"{CONVERSATION}a_new_conversation_knows_nothing_of_the_last_one",
)
class MemoryOfOthers(Double):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.last: list[dict[str, str]] = []

    def conversation(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        before, self.last = self.last, messages
        return [*before[-1:], *messages]


@defect("total-forgets-the-prompt", "The total counts the answer only.", f"{USAGE}total_is_prompt_and_completion_together")
class TotalForgetsThePrompt(Double):
    def usage(self, asked: Asked, prompt_tokens: int, completion_tokens: int) -> Json:
        return {**super().usage(asked, prompt_tokens, completion_tokens), "total_tokens": completion_tokens}


@defect(
    "prompt-counted-in-words", "Prompt tokens are estimated from words.", f"{USAGE}prompt_tokens_are_those_of_the_tokenizer"
)
class PromptCountedInWords(Double):
    def usage(self, asked: Asked, prompt_tokens: int, completion_tokens: int) -> Json:
        words = sum(len(text.split()) for text in asked.texts)
        return super().usage(asked, prompt_tokens if asked.chat else words, completion_tokens)


@defect(
    "template-is-free",
    "The chat template's tokens are not counted.",
    f"{USAGE}chat_prompt_tokens_are_those_of_the_rendered_conversation",
)
class TemplateIsFree(Double):
    def usage(self, asked: Asked, prompt_tokens: int, completion_tokens: int) -> Json:
        return super().usage(asked, prompt_tokens - 2 * asked.chat, completion_tokens)


@defect("completion-off-by-one", "The last token of an answer is not counted.", f"{USAGE}completion_tokens_are_those_that_came")
class CompletionOffByOne(Double):
    def usage(self, asked: Asked, prompt_tokens: int, completion_tokens: int) -> Json:
        return super().usage(asked, prompt_tokens, completion_tokens - (not asked.stream and completion_tokens > 1))


@defect("choices-are-free", "Only the first choice is counted.", f"{USAGE}several_choices_are_all_counted")
class ChoicesAreFree(Double):
    def usage(self, asked: Asked, prompt_tokens: int, completion_tokens: int) -> Json:
        return super().usage(asked, prompt_tokens, completion_tokens // asked.n)


@defect(
    "metrics-miss-requests",
    "The metrics count every second request.",
    f"{USAGE}the_servers_metrics_agree_with_the_clients_count",
)
class MetricsMissRequests(Double):
    def count(self, asked: Asked, generations: Sequence[Generation]) -> None:
        if self.number() % 2:
            super().count(asked, generations)


@defect("gauge-stays-up", "The gauge of running requests never comes down to zero.", f"{USAGE}nothing_runs_when_nobody_asks")
class GaugeStaysUp(Double):
    def metrics(self) -> str:
        return super().metrics().replace('running{model_name="double"} 0', 'running{model_name="double"} 1')


@defect("embeddings-out-of-order", "The vectors of a batch change places.", f"{EMBEDDINGS}a_batch_keeps_its_order")
class EmbeddingsOutOfOrder(Double):
    def embedded(self, body: Json) -> Response:
        given = body.get("input")
        return super().embedded({**body, "input": given[::-1]} if isinstance(given, list) else body)


@defect("one-vector-for-all", "Every text has the same vector.", f"{EMBEDDINGS}different_texts_have_different_vectors")
class OneVectorForAll(Double):
    def vector(self, ids: Sequence[int]) -> list[float]:  # noqa: ARG002
        return super().vector([1])


@defect("restless-vectors", "The same text has another vector every time.", f"{EMBEDDINGS}the_same_text_has_the_same_vector")
class RestlessVectors(Double):
    def vector(self, ids: Sequence[int]) -> list[float]:
        return super().vector([self.number(), *ids])


@defect("zero-vectors", "Vectors are zero.", f"{EMBEDDINGS}a_vector_is_finite_and_not_zero")
class ZeroVectors(Double):
    def vector(self, ids: Sequence[int]) -> list[float]:
        return [0.0 for _ in super().vector(ids)]


@defect("base64-the-wrong-way-round", "Base64 holds big-endian numbers.", f"{EMBEDDINGS}base64_holds_the_same_numbers")
class Base64TheWrongWayRound(Double):
    def base64(self, vector: Sequence[float]) -> str:
        return base64.b64encode(struct.pack(f">{len(vector)}f", *vector)).decode()


@defect("embeddings-without-shape", "The list of vectors is no list object.", f"{EMBEDDINGS}is_a_list_of_embeddings")
class EmbeddingsWithoutShape(Double):
    def embedded(self, body: Json) -> Response:
        found = json.loads(super().embedded(body).body)
        return as_json({**found, "object": "embeddings"})


@defect(
    "embeddings-cost-more",
    "The total of an embedding counts tokens that nobody made.",
    f"{EMBEDDINGS}usage_counts_the_prompt_only",
)
class EmbeddingsCostMore(Double):
    def embedded(self, body: Json) -> Response:
        found = json.loads(super().embedded(body).body)
        found["usage"]["total_tokens"] += 1
        return as_json(found)


@defect("completions-are-chats", "A completion answers with the object of a chat.", f"{COMPLETIONS}is_a_text_completion_object")
class CompletionsAreChats(Double):
    def head(self, asked: Asked, name: str, created: int, kind: str) -> Json:
        return super().head(asked, name, created, "chat.completion" if kind == "text_completion" else kind)


@defect(
    "completions-without-text",
    "A completion holds a message instead of a text.",
    f"{COMPLETIONS}holds_one_choice_with_text",
)
class CompletionsWithoutText(Double):
    def choice(self, asked: Asked, generation: Generation, pieces: list[Piece]) -> Json:
        choice = super().choice(asked, generation, pieces)
        return choice if asked.chat else {**choice, "text": None, "message": {"role": "assistant", "content": choice["text"]}}
