"""Other engines and gateways, as far as the wire format allows or several of them document it."""

from __future__ import annotations

import json
import re
import time
from typing import Any, ClassVar

from doubles import asked as asking
from doubles.asked import Asked
from doubles.bodies import Json
from doubles.generation import Generation, Piece
from doubles.refusal import RefusedError
from doubles.server import Double
from doubles.wire import Connection, Request, Response, as_json

_OF_VLLM = ("/version", "/tokenize", "/detokenize", "/metrics", "/openapi.json", "/v1/embeddings", "/ping")
# Fields of the API reference; all others are extensions.
_KNOWN = (
    *("model", "messages", "prompt", "max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "stream", "stop"),
    *("stream_options", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "user", "seed"),
    *("tools", "tool_choice", "parallel_tool_calls", "response_format", "echo", "suffix", "best_of", "store", "metadata"),
)


# After the probes, in the middle of the cases.
_CALM_REQUESTS = 80


class AnotherEngine(Double):
    """Not vLLM: only the paths of the API, and extensions are ignored."""

    def routes(self) -> dict[str, str]:
        return {path: method for path, method in super().routes().items() if path not in _OF_VLLM}

    def asked(self, body: Json, *, chat: bool) -> Asked:
        return super().asked({name: value for name, value in body.items() if name in _KNOWN}, chat=chat)


class ChatOnly(AnotherEngine):
    """Chat and a list of models, and nothing else."""

    def routes(self) -> dict[str, str]:
        return {path: method for path, method in super().routes().items() if path in ("/v1/models", "/v1/chat/completions")}


class CompletionsOnly(AnotherEngine):
    """A base model without a chat template."""

    def routes(self) -> dict[str, str]:
        return {path: method for path, method in super().routes().items() if path in ("/v1/models", "/v1/completions")}


class StrictFields(AnotherEngine):
    """Unknown fields are refused, and errors have the codes of OpenAI."""

    codes: ClassVar[dict[int, str]] = {404: "model_not_found", 401: "invalid_api_key"}

    def asked(self, body: Json, *, chat: bool) -> Asked:
        for name in body:
            if name not in _KNOWN:
                raise RefusedError(f"Unrecognized request argument supplied: {name}")
        return super().asked(body, chat=chat)

    def error(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> Response:  # noqa: ARG002
        error = {"message": message, "type": "invalid_request_error", "param": param, "code": self.codes.get(status)}
        return as_json({"error": error}, status)


class StrictChatOnly(StrictFields):
    """Only chat, and unknown fields are refused."""

    def routes(self) -> dict[str, str]:
        return {path: method for path, method in super().routes().items() if path in ("/v1/models", "/v1/chat/completions")}


class CountsNothing(AnotherEngine):
    """Answers and streams have no usage."""

    def whole(self, asked: Asked, name: str, created: int, answers: Any) -> Json:
        found = super().whole(asked, name, created, answers)
        del found["usage"]
        return found

    def asked(self, body: Json, *, chat: bool) -> Asked:
        return super().asked({**body, "stream_options": None}, chat=chat)


class Tolerant(AnotherEngine):
    """Values out of range are clamped or ignored, any model name and content type is taken, as single-model servers do."""

    def known(self, body: Json) -> None:
        pass

    def body(self, request: Request) -> Json:
        return asking.parse(request.body)

    def asked(self, body: Json, *, chat: bool) -> Asked:
        kept = dict(body)
        if not (body.get("stream") and isinstance(body.get("stream_options"), dict)):
            kept.pop("stream_options", None)
        if not body.get("tools"):
            kept.pop("tool_choice", None)
        if not body.get("logprobs"):
            kept.pop("top_logprobs", None)
        for name in (
            "temperature",
            "top_p",
            "n",
            "max_tokens",
            "frequency_penalty",
            "presence_penalty",
            "stop",
            "seed",
            "logit_bias",
        ):
            try:
                asking.sampling({name: kept.get(name)}) if name != "n" else asking.whole(kept, "n", 1, 1, 128)
                asking.strings(kept, "stop", 64)
                asking.whole(kept, "max_tokens", 16, 1, asking.MAX_LENGTH)
            except RefusedError:
                kept.pop(name, None)
        return super().asked(kept, chat=chat)


class SnapshotNames(Double):
    """The answer names a dated snapshot of the model, as OpenAI's do."""

    def model_said(self, asked: Asked) -> str:
        return f"{super().model_said(asked)}-2026-08-07"


class Alias(AnotherEngine):
    """A gateway that names the model behind an alias."""

    def model_said(self, asked: Asked) -> str:  # noqa: ARG002
        return "hosted/something-7b"


class NamesWithSlashes(Double):
    """One of many models, whose name has slashes and a colon."""

    model = "org/name-7b:q4"


class PagesOfGateways(Double):
    """A gateway answers 404 and 405 with a page of HTML."""

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        found = await super().routed(request, connection)
        if found is None or found.status not in (404, 405) or b"does not exist" in found.body:
            return found
        page = f"<html><head><title>{found.status}</title></head><body><center>nginx</center></body></html>"
        return Response(status=found.status, body=page.encode(), headers={"content-type": "text/html"})


class FloatingTimes(Double):
    """The time of creation is a floating-point number."""

    def head(self, asked: Asked, name: str, created: int, kind: str) -> Json:  # noqa: ARG002
        return super().head(asked, name, time.time(), kind)  # type: ignore[arg-type]

    def card(self) -> Json:
        return {**super().card(), "created": time.time()}


class NoTimes(Double):
    """The time of creation is not filled in."""

    def head(self, asked: Asked, name: str, created: int, kind: str) -> Json:  # noqa: ARG002
        return super().head(asked, name, 0, kind)

    def card(self) -> Json:
        return {**super().card(), "created": 0}


class NullFields(Double):
    """Optional fields are null."""

    def head(self, asked: Asked, name: str, created: int, kind: str) -> Json:
        return {**super().head(asked, name, created, kind), "service_tier": None}

    def message(self, asked: Asked, text: str) -> Json:
        found = super().message(asked, text)
        return {"tool_calls": None, "function_call": None, "annotations": None, "audio": None, **found}

    fingerprint = None  # type: ignore[assignment]


class FewFields(AnotherEngine):
    """Optional fields are missing."""

    def whole(self, asked: Asked, name: str, created: int, answers: Any) -> Json:
        found = super().whole(asked, name, created, answers)
        for optional in ("system_fingerprint", "prompt_token_ids"):
            found.pop(optional, None)
        return found

    def card(self) -> Json:
        return {"id": self.model, "object": "model", "owned_by": "me"}

    def choice(self, asked: Asked, generation: Generation, pieces: list[Piece]) -> Json:
        found = super().choice(asked, generation, pieces)
        return {name: value for name, value in found.items() if value is not None}

    def message(self, asked: Asked, text: str) -> Json:
        return {name: value for name, value in super().message(asked, text).items() if value is not None}


class NullContent(Double):
    """Content without text is null instead of an empty text."""

    def message(self, asked: Asked, text: str) -> Json:
        found = super().message(asked, text)
        return {**found, "content": found["content"] or None}


class Reasons(Double):
    """A reasoning parser puts all text of a chat into another field."""

    def message(self, asked: Asked, text: str) -> Json:
        found = super().message(asked, text)
        return found if asked.call or asked.forced else {**found, "content": None, "reasoning_content": text}

    def delta(self, asked: Asked, generation: Generation, text: str, *, first: bool) -> Json:
        found = super().delta(asked, generation, text, first=first)
        return found if asked.call or asked.forced or not text else {**found, "content": None, "reasoning_content": text}


class Unprocessable(Double):
    """Mistakes are answered 422 with FastAPI's list of details."""

    def error(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> Response:
        if status != 400:
            return super().error(status, message, kind, param)
        return as_json({"detail": [{"loc": ["body", param], "msg": message, "type": "value_error"}]}, 422)


class PlainMessages(Double):
    """Errors are `{"message": ...}`, as some gateways write them."""

    def error(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> Response:  # noqa: ARG002
        return as_json({"object": "error", "message": message, "code": 40_001}, status)


class ErrorTexts(Double):
    """Errors are `{"error": "..."}`."""

    def error(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> Response:  # noqa: ARG002
        return as_json({"error": message}, status)


class RefusesUnknownModels(Double):
    """An unknown model is answered 400, as by gateways that route by name."""

    def known(self, body: Json) -> None:
        try:
            super().known(body)
        except RefusedError as error:
            raise RefusedError(f"Invalid model name passed in model={body.get('model')}", status=400) from error


class RefusesTooMuch(Double):
    """A prompt and max_tokens beyond the limit are refused together, as OpenAI and older versions of vLLM do."""

    def asked(self, body: Json, *, chat: bool) -> Asked:
        found = super().asked(body, chat=chat)
        wanted = body.get("max_completion_tokens") or body.get("max_tokens") or 0
        if max(map(len, found.prompts)) + wanted > asking.MAX_LENGTH:
            raise RefusedError(f"This model's maximum context length is {asking.MAX_LENGTH} tokens.", param="max_tokens")
        return found


class GivesLess(Double):
    """A max_tokens above the limit gets as much as there is room for."""

    def asked(self, body: Json, *, chat: bool) -> Asked:
        wanted = body.get("max_tokens")
        large = isinstance(wanted, int) and wanted > asking.MAX_LENGTH
        return super().asked({**body, "max_tokens": asking.MAX_LENGTH} if large else body, chat=chat)


class OddIds(Double):
    """Ids without any prefix."""

    def head(self, asked: Asked, name: str, created: int, kind: str) -> Json:
        return super().head(asked, name.rpartition("-")[2], created, kind)


class Rounds(Double):
    """The ends of greedy answers differ from request to request, as rounding in batches makes them."""

    def generations(self, asked: Asked) -> list[Generation]:
        made = super().generations(asked)
        for generation in made if asked.sampling.temperature == 0 and asked.max_tokens >= 8 and not asked.forced else ():
            vars(generation)["drifts"] = self.number()
        return made

    async def pieces(self, generation: Generation) -> list[Piece]:
        step, number = generation.step, vars(generation).get("drifts", 0)

        def drifting() -> Piece | None:
            if number and len(generation.tokens) == generation.asked.max_tokens * 3 // 4:
                generation._start += number
            return step()

        generation.step = drifting  # type: ignore[method-assign]
        return await super().pieces(generation)


class ResetsAfterErrors(Double):
    """After an error the connection is reset without a word, as by vLLM 0.25: a finding of its own, which fails nothing."""

    async def answer(self, request: Request, connection: Connection) -> None:
        respond = connection.respond

        def last(response: Response) -> None:
            respond(response)
            if response.status >= 400:
                connection.close()

        connection.respond = last  # type: ignore[method-assign]
        await super().answer(request, connection)


class NoSystemRole(Double):
    """The chat template has no system messages, as that of Gemma."""

    def conversation(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        if any(message["role"] == "system" for message in messages):
            raise RefusedError("System role not supported")
        return messages


class NoToolsInTheTemplate(Double):
    """The chat template ignores tools and their results, as that of SmolLM2."""

    def tokenized(self, body: Json) -> Response:
        return super().tokenized({**body, "tools": None, **_without_results(body)})

    def rendered(self, body: Json) -> list[int]:
        return super().rendered({**body, "tools": None, **_without_results(body)})


def _without_results(body: Json) -> Json:
    messages = body.get("messages")
    if not isinstance(messages, list):
        return {}
    kept = [
        each for each in messages if not (isinstance(each, dict) and (each.get("role") == "tool" or each.get("tool_calls")))
    ]
    return {"messages": kept or messages}


class Limited(Double):
    """Every ninth request is answered 429 with Retry-After."""

    asked_before = 0

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        self.asked_before += 1
        if self.asked_before % 9 == 0:
            error = {"message": "Rate limit reached for requests", "type": "requests", "code": "rate_limit_exceeded"}
            return as_json({"error": error}, 429, {"retry-after": "0"})
        return await super().routed(request, connection)


class LimitsEverybodyForAWhile(Double):
    """Everything is answered 429 for three seconds, without saying for how long."""

    asked_before = 0
    until = 0.0

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        self.asked_before += 1
        if self.asked_before == _CALM_REQUESTS:
            self.until = time.monotonic() + 3
        if time.monotonic() < self.until:
            return as_json({"error": {"message": "Too many requests", "type": "requests", "code": None}}, 429)
        return await super().routed(request, connection)


class NoQuota(AnotherEngine):
    """Embeddings, and several choices, are always answered 429, because there is no quota for them."""

    def routes(self) -> dict[str, str]:
        return {**super().routes(), "/v1/embeddings": "POST"}

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        if request.path == "/v1/embeddings" or re.search(rb'"n": ?[2-9]', request.body):
            error = {"message": "You exceeded your current quota", "type": "requests", "code": "insufficient_quota"}
            return as_json({"error": error}, 429, {"retry-after": "60"})
        return await super().routed(request, connection)


class NewerLimit(AnotherEngine):
    """A chat takes `max_completion_tokens` and no `max_tokens`, as OpenAI's reasoning models."""

    def asked(self, body: Json, *, chat: bool) -> Asked:
        if chat and "max_tokens" in body:
            message = (
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
            )
            raise RefusedError(message, kind="invalid_request_error", param="max_tokens")
        return super().asked(body, chat=chat)


class NewerLimitChatOnly(NewerLimit, ChatOnly):
    """The same, and there are no completions."""


class OneTemperature(NewerLimit):
    """A chat has no other temperature than 1 either, as with OpenAI's reasoning models."""

    def asked(self, body: Json, *, chat: bool) -> Asked:
        if chat and body.get("temperature", 1) not in (1, None):
            message = f"Unsupported value: 'temperature' does not support {body['temperature']} with this model. Only 1 is."
            raise RefusedError(message, kind="invalid_request_error", param="temperature")
        return super().asked(body, chat=chat)


class OneTemperatureChatOnly(OneTemperature, ChatOnly):
    """The same, and there are no completions."""


class ListsStoredChats(AnotherEngine):
    """A GET of the chat route lists stored completions, as OpenAI's does."""

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        if request.method == "GET" and request.path == "/v1/chat/completions":
            return as_json({"object": "list", "data": [], "has_more": False})
        return await super().routed(request, connection)


class OnePrompt(AnotherEngine):
    """Lists of prompts and token ids are refused."""

    def asked(self, body: Json, *, chat: bool) -> Asked:
        if not chat and not isinstance(body.get("prompt"), str):
            raise RefusedError("prompt should be a string", param="prompt")
        return super().asked(body, chat=chat)


class ObjectsAtTheRoot(AnotherEngine):
    """Schemas need an object at the root, as OpenAI's strict mode."""

    def asked(self, body: Json, *, chat: bool) -> Asked:
        schema = ((body.get("response_format") or {}).get("json_schema") or {}).get("schema")
        if isinstance(schema, dict) and schema.get("type") != "object":
            raise RefusedError("Invalid schema for response_format: schema must be a JSON Schema of 'type: \"object\"'")
        return super().asked(body, chat=chat)


class FloatsForBase64(AnotherEngine):
    """Embeddings are lists of numbers whatever the encoding format."""

    def routes(self) -> dict[str, str]:
        return {**super().routes(), "/v1/embeddings": "POST"}

    def embedded(self, body: Json) -> Response:
        found = json.loads(super().embedded({**body, "encoding_format": "float"}).body)
        del found["usage"]
        return as_json(found)


OF_SERVERS: tuple[type[Double], ...] = (
    *(AnotherEngine, ChatOnly, CompletionsOnly, StrictFields, StrictChatOnly, CountsNothing, Tolerant, SnapshotNames, Alias),
    *(NamesWithSlashes, PagesOfGateways, FloatingTimes, NoTimes, NullFields, FewFields, NullContent, Reasons, Unprocessable),
    *(PlainMessages, ErrorTexts, RefusesUnknownModels, RefusesTooMuch, GivesLess, OddIds, Rounds, ResetsAfterErrors),
    *(NoSystemRole, NoToolsInTheTemplate, Limited, LimitsEverybodyForAWhile, NoQuota, ListsStoredChats, OnePrompt, NewerLimit),
    *(NewerLimitChatOnly, OneTemperature, OneTemperatureChatOnly, ObjectsAtTheRoot, FloatsForBase64),
)
