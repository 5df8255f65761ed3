"""Defects of chat alone, and of servers that are not vLLM: no tokenizer route, no metrics, no extensions."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from doubles.asked import Asked
from doubles.bodies import Json
from doubles.defects.catalogue import defect
from doubles.generation import Generation, Piece
from doubles.legal_servers import AnotherEngine, ChatOnly
from doubles.refusal import RefusedError
from doubles.server import IN_COMPANY_S, Double
from doubles.toymodel import Sampling
from doubles.wire import Connection, Request, Response, as_json

CHAT = "integration/test_chat.py::test_"
COMPLETIONS = "integration/test_completions.py::test_"
CONCURRENCY = "integration/test_concurrency.py::test_"
CONVERSATION = "integration/test_conversation.py::test_"
ERRORS = "integration/test_errors.py::test_"
USAGE = "integration/test_usage.py::test_"


@defect("chat-ignores-stop", "Stop strings have no effect on a chat.", f"{CHAT}a_stop_string_ends_a_chat_answer")
class ChatIgnoresStop(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        found = super().asked(body, chat=chat)
        return replace(found, stops=()) if chat else found


@defect("chat-stops-by-length", "A chat that a stop string ended says `length`.", f"{CHAT}a_stop_string_ends_a_chat_answer")
class ChatStopsByLength(Double):
    def finish_said(self, generation: Generation) -> str:
        stopped = generation.asked.chat and generation.stop_reason is not None
        return "length" if stopped else super().finish_said(generation)


@defect("chat-is-always-greedy", "The temperature has no effect on a chat.", f"{CHAT}chat_answers_vary_at_temperature_one")
class ChatIsAlwaysGreedy(Double):
    def sampling(self, asked: Asked) -> Sampling:
        return replace(asked.sampling, temperature=0) if asked.chat else asked.sampling


@defect("chat-ignores-n", "A chat has one choice whatever n is.", f"{CHAT}n_gives_that_many_chat_answers")
class ChatIgnoresN(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        found = super().asked(body, chat=chat)
        return replace(found, n=1) if chat else found


@defect("chat-ignores-bias", "logit_bias has no effect on a chat.", f"{CHAT}logit_bias_forces_a_token_in_a_chat")
class ChatIgnoresBias(Double):
    def sampling(self, asked: Asked) -> Sampling:
        return replace(asked.sampling, bias={}) if asked.chat else asked.sampling


@defect("null-is-refused", "Optional fields that are null are refused.", f"{CHAT}null_is_like_no_value")
class NullIsRefused(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        if "frequency_penalty" in body and body["frequency_penalty"] is None:
            raise RefusedError("Input should be a valid number", param="frequency_penalty")
        return super().asked(body, chat=chat)


@defect("prompts-come-back", "The content of a chat begins with the prompt.", f"{CHAT}an_answer_does_not_repeat_its_prompt")
class PromptsComeBack(Double):
    def rendered(self, body: Json) -> list[int]:
        self.told = str(body["messages"][-1].get("content")) if body.get("messages") else ""
        return super().rendered(body)

    def message(self, asked: Asked, text: str) -> Json:
        found = super().message(asked, text)
        return found if asked.forced else {**found, "content": self.told + text}


@defect("text-is-lost", "The content of every chat is empty.", f"{CHAT}some_answer_has_text")
class TextIsLost(ChatOnly):
    def message(self, asked: Asked, text: str) -> Json:  # noqa: ARG002
        return {"role": "assistant", "content": ""}


@defect("plain-answers", "Answers are sent as text/plain.", f"{CHAT}answers_are_sent_as_json")
class PlainAnswers(Double):
    async def completed(self, asked: Asked, body: Json, connection: Connection) -> Response | None:
        found = await super().completed(asked, body, connection)
        return found and replace(found, headers={**found.headers, "content-type": "text/plain"})


@defect("created-as-text", "The time of creation is a text.", f"{CHAT}says_when_it_was_made")
class CreatedAsText(Double):
    def head(self, asked: Asked, name: str, created: int, kind: str) -> Json:
        moment = dt.datetime.fromtimestamp(created, dt.UTC).isoformat()
        return {**super().head(asked, name, created, kind), "created": moment}


@defect("unknown-fields-crash", "An unknown field is answered 500.", f"{CHAT}unknown_fields_do_no_harm")
class UnknownFieldsCrash(AnotherEngine):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        if "a_field_of_the_future" in body:
            raise RefusedError("unexpected keyword argument", status=500, kind="TypeError")
        return super().asked(body, chat=chat)


@defect("json-mode-ignored", "json_object gives free text.", "integration/test_structured.py::test_json_mode_gives_an_object")
class JsonModeIgnored(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        free = (body.get("response_format") or {}).get("type") == "json_object"
        return super().asked({**body, "response_format": None} if free else body, chat=chat)


@defect("echo-in-ascii", "echo replaces what is not ASCII.", f"{COMPLETIONS}echo_keeps_every_character")
class EchoInAscii(Double):
    def echoed(self, asked: Asked, generation: Generation) -> str:
        return super().echoed(asked, generation).encode("ascii", "replace").decode()


@defect(
    "numbers-begin-again",
    "The choices of every prompt of a batch are numbered from 0.",
    f"{COMPLETIONS}a_batch_with_several_choices_numbers_all_of_them",
)
class NumbersBeginAgain(Double):
    def choice(self, asked: Asked, generation: Generation, pieces: list[Piece]) -> Json:
        found = super().choice(asked, generation, pieces)
        return {**found, "index": generation.choice} if asked.n > 1 else found


@defect(
    "temperature-of-another",
    "Requests that run together share the temperature of the last one.",
    f"{CONCURRENCY}a_greedy_answer_stays_greedy_in_company",
)
class TemperatureOfAnother(Double):
    token_s = IN_COMPANY_S
    last: Sampling | None = None

    def sampling(self, asked: Asked) -> Sampling:
        shared = self.last if self.counts["running"] > 1 and self.last else asked.sampling
        self.last = asked.sampling
        return replace(asked.sampling, temperature=shared.temperature)


@defect(
    "chats-are-swapped",
    "Concurrent chats get each other's answer, on a server that has only chat.",
    f"{CONCURRENCY}concurrent_answers_are_those_that_the_prompts_get_alone",
)
class ChatsAreSwapped(ChatOnly):
    token_s = IN_COMPANY_S
    last: Json | None = None

    def whole(self, asked: Asked, name: str, created: int, answers: Any) -> Json:
        found = super().whole(asked, name, created, answers)
        other, self.last = self.last, found
        others = self.counts["waiting"] + self.counts["running"]  # its own slot is free again
        return {**found, "choices": other["choices"]} if other and others else found


@defect(
    "probabilities-are-shifted",
    "The tokens beside the log probabilities of a chat are those of the next ones.",
    "integration/test_logprobs.py::test_the_tokens_are_those_of_the_answer",
)
class ProbabilitiesAreShifted(Double):
    def choice(self, asked: Asked, generation: Generation, pieces: list[Piece]) -> Json:
        found = super().choice(asked, generation, pieces)
        if asked.chat and asked.logprobs is not None:
            content = found["logprobs"]["content"]
            tokens = [*(entry["token"] for entry in content[1:]), ""]
            found["logprobs"]["content"] = [{**entry, "token": token} for entry, token in zip(content, tokens, strict=True)]
        return found


@defect("one-token-prompts", "All prompts are counted as one token.", f"{USAGE}a_longer_prompt_has_more_tokens")
class OneTokenPrompts(ChatOnly):
    def usage(self, asked: Asked, prompt_tokens: int, completion_tokens: int) -> Json:
        return super().usage(asked, min(prompt_tokens, 1), completion_tokens)


@defect("half-the-prompt-is-counted", "Long prompts are counted up to 64 tokens.", f"{USAGE}a_longer_prompt_has_more_tokens")
class HalfThePromptIsCounted(AnotherEngine):
    def usage(self, asked: Asked, prompt_tokens: int, completion_tokens: int) -> Json:
        return super().usage(asked, min(prompt_tokens, 64), completion_tokens)


@defect(
    "first-turn-is-dropped",
    "Long conversations lose their first message, on a server without a tokenizer route.",
    f"{CONVERSATION}the_first_turn_counts_in_a_late_turn",
)
class FirstTurnIsDropped(ChatOnly):
    def conversation(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        return messages[-6:]


@defect(
    "conversations-are-joined",
    "A prompt begins with the last conversation, on a server without a tokenizer route.",
    f"{CONVERSATION}a_prompt_is_as_long_after_another_conversation",
)
class ConversationsAreJoined(ChatOnly):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.last: list[dict[str, str]] = []

    def conversation(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        before, self.last = self.last, messages
        return [*before[-1:], *messages]


@defect(
    "too-long-on-chat-only",
    "Answers are one token longer than max_tokens.",
    "integration/test_stopping.py::test_max_tokens_cuts_the_answer",
)
class TooLongOnChatOnly(ChatOnly):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        found = super().asked(body, chat=chat)
        return replace(found, max_tokens=found.max_tokens + 1)


@defect("errors-are-answers", "Refusals have the status 200.", f"{ERRORS}a_bad_field_is_refused_and_named")
class ErrorsAreAnswers(AnotherEngine):
    def error(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> Response:
        found = super().error(status, message, kind, param)
        return replace(found, status=200) if status == 400 else found


@defect("text-for-messages", "Messages may be any text.", f"{ERRORS}a_bad_field_is_refused_and_named[messages-as-text]")
class TextForMessages(AnotherEngine):
    def rendered(self, body: Json) -> list[int]:
        given = body.get("messages")
        return super().rendered({**body, "messages": [{"role": "user", "content": given}]} if isinstance(given, str) else body)


@defect("choices-crash", "A valid request for two choices is answered 500.", f"{ERRORS}valid_requests_get_no_server_error")
class ChoicesCrash(AnotherEngine):
    def generations(self, asked: Asked) -> list[Generation]:
        if asked.n > 1:
            raise RefusedError("list index out of range", status=500, kind="IndexError")
        return super().generations(asked)


@defect(
    "bad-values-crash-elsewhere",
    "A value of the wrong type is answered 500 without JSON.",
    f"{ERRORS}a_bad_field_is_refused_and_named[temperature-as-text]",
)
class BadValuesCrashElsewhere(ChatOnly):
    async def routed(self, request: Request, connection: Connection) -> Response | None:
        if b'"temperature": "hot"' in request.body or b'"temperature":"hot"' in request.body:
            return Response(status=500, body=b"Internal Server Error", headers={"content-type": "text/plain"})
        return await super().routed(request, connection)


@defect(
    "another-model-answers",
    "Another listed model answers.",
    "integration/test_models.py::test_a_chat_completion_names_the_model_that_was_asked",
)
class AnotherModelAnswers(AnotherEngine):
    def got(self, path: str) -> Response:
        if path != "/v1/models":
            return super().got(path)
        return as_json({"object": "list", "data": [self.card(), {**self.card(), "id": "larger"}]})

    def model_said(self, asked: Asked) -> str:  # noqa: ARG002
        return "larger"


@defect("refusals-leak-slots", "After twenty refusals no request gets a slot.", f"{ERRORS}refusals_leave_the_server_working")
class RefusalsLeakSlots(ChatOnly):
    refused = 0

    def error(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> Response:
        self.refused += status == 400
        return super().error(status, message, kind, param)

    def generations(self, asked: Asked) -> list[Generation]:
        if self.refused > 20:
            raise RefusedError("no slot is free", status=503, kind="ServiceUnavailableError")
        return super().generations(asked)


@defect(
    "embeddings-lose-order",
    "The vectors of a batch are sorted.",
    "integration/test_embeddings.py::test_a_batch_keeps_its_order",
)
class EmbeddingsLoseOrder(Double):
    def embedded(self, body: Json) -> Response:
        given = body.get("input")
        return super().embedded({**body, "input": sorted(given, key=len)} if isinstance(given, list) else body)


@defect(
    "answers-wait-for-all",
    "An answer misses its choices under load.",
    f"{CONCURRENCY}more_requests_than_slots_are_all_answered",
    alone=True,
)
class AnswersWaitForAll(ChatOnly):
    token_s = 0.003

    async def pieces(self, generation: Generation) -> list[Piece]:
        await asyncio.sleep(0.002)
        return await super().pieces(generation)

    def whole(self, asked: Asked, name: str, created: int, answers: Sequence[Any]) -> Json:
        found = super().whole(asked, name, created, answers)
        return {**found, "choices": []} if self.counts["running"] + self.counts["waiting"] > 4 else found
