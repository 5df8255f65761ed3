"""Engines as they were seen, without what is wrong with them: what their documentation says, or the wire format allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from doubles import asked as asking
from doubles.asked import Asked
from doubles.bodies import Json
from doubles.generation import Generation, Piece
from doubles.legal_servers import Tolerant
from doubles.refusal import RefusedError
from doubles.server import Double
from doubles.wire import Request, Response, as_json

_FIELDS_OF_TRANSFORMERS = (
    *("model", "messages", "prompt", "max_tokens", "temperature", "top_p", "n", "stream", "stop", "seed", "echo", "logprobs"),
    *("stream_options", "presence_penalty", "frequency_penalty", "logit_bias", "top_logprobs", "tools", "tool_choice", "user"),
    *("response_format", "max_completion_tokens", "suffix", "best_of", "parallel_tool_calls"),
)
_IGNORED_BY_TRANSFORMERS = ("n", "echo", "logprobs", "top_logprobs", "tools", "tool_choice", "response_format", "logit_bias")


def _a_text(body: Json) -> None:
    """Refuse lists of prompts and token ids."""
    if "prompt" in body and not isinstance(body["prompt"], str):
        raise RefusedError("prompt must be a string.", param="prompt")


class TransformersServe(Tolerant):
    """`transformers serve`: pinned to a model named by its path, unknown fields get 422, errors are `{"detail": ...}`."""

    model = "/srv/models/tiny"

    def routes(self) -> dict[str, str]:
        return {**super().routes(), "/openapi.json": "GET"}

    def card(self) -> Json:
        return {"id": self.model, "object": "model", "created": 0, "owned_by": "local", "status": {"value": "loaded"}}

    def known(self, body: Json) -> None:
        if body.get("model") not in (None, self.model):
            raise RefusedError(f"Server is pinned to '{self.model}'; requested '{body['model']}'.")

    def error(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> Response:  # noqa: ARG002
        return as_json({"detail": message}, status)

    def asked(self, body: Json, *, chat: bool) -> Asked:
        if unknown := {name for name in body if name not in _FIELDS_OF_TRANSFORMERS}:
            raise RefusedError(f"Unexpected fields in the request: {unknown}", status=422)
        _a_text(body)
        kept = {name: value for name, value in body.items() if name not in _IGNORED_BY_TRANSFORMERS}
        return super().asked(kept, chat=chat)

    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        for chunk in super().piece(asked, head, generation, pieces):
            if generation.finish_reason:
                chunk["usage"] = self.usage(asked, len(generation.prompt), len(generation.tokens))
            yield chunk

    def closing(self, asked: Asked, head: Json, generations: Sequence[Generation]) -> Iterator[Json]:  # noqa: ARG002
        return iter(())


class LlamaCppPython(Tolerant):
    """llama-cpp-python: one model under any name, no time of creation, `max_tokens` of 0 or less has no end, `n` is ignored."""

    def card(self) -> Json:
        return {"id": self.model, "object": "model", "owned_by": "me", "permissions": []}

    def stranger(self, request: Request) -> Response:  # noqa: ARG002
        return as_json({"detail": "Invalid API key"}, 401)

    def asked(self, body: Json, *, chat: bool) -> Asked:
        _a_text(body)
        wanted = body.get("max_tokens")
        endless = isinstance(wanted, int) and wanted <= 0
        kept = {**body, "n": 1, **({"max_tokens": asking.MAX_LENGTH} if endless else {})}
        return replace(super().asked(kept, chat=chat), model=str(body.get("model") or self.model))

    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        return super().piece(replace(asked, echo=False), head, generation, pieces)  # streams do not repeat the prompt


class LiteLlm(Double):
    """LiteLLM in front of vLLM: codes are texts, messages have its own words around those of the server."""

    def routes(self) -> dict[str, str]:
        kept = ("/health", "/v1/models", "/openapi.json", "/v1/chat/completions", "/v1/completions", "/v1/embeddings")
        return {path: method for path, method in super().routes().items() if path in kept}

    def known(self, body: Json) -> None:
        if body.get("model") not in (None, self.model):
            raise RefusedError(f"/chat/completions: Invalid model name passed in model={body['model']}")

    def card(self) -> Json:
        return {"id": self.model, "object": "model", "created": 1_677_610_602, "owned_by": "openai"}

    def stranger(self, request: Request) -> Response:
        if "authorization" not in request.headers:
            return self.error(401, "Authentication Error, No api key passed in.", "auth_error", "None")
        return self.error(400, "No connected db.", "no_db_connection")

    def error(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> Response:
        words = f"litellm.{kind}: OpenAIException - {message}. Received Model Group={self.model}"
        error: dict[str, Any] = {"message": words, "type": "None", "param": param or "None", "code": str(status)}
        return as_json({"error": error}, status)


OF_ENGINES: tuple[type[Double], ...] = (TransformersServe, LlamaCppPython, LiteLlm)
