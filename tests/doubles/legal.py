"""Servers that differ from the double in ways that the wire format and the specification of server-sent events allow.

No case may fail for any of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from doubles.asked import Asked
from doubles.bodies import Json
from doubles.generation import Generation, Piece
from doubles.legal_engines import OF_ENGINES
from doubles.legal_numbers import OF_NUMBERS
from doubles.legal_servers import OF_SERVERS
from doubles.refusal import RefusedError
from doubles.server import Double
from doubles.wire import Connection, Request, Response, as_json


class KeepAliveComments(Double):
    """Comments between events, as proxies and vLLM itself send them to keep a connection open."""

    def event(self, chunk: Json | str) -> bytes:
        return b": keep-alive\n\n" + super().event(chunk)


class CarriageReturns(Double):
    """Lines end with carriage return and line feed."""

    def event(self, chunk: Json | str) -> bytes:
        return super().event(chunk).replace(b"\n", b"\r\n")


class OldMacintoshLines(Double):
    """Lines end with a carriage return alone, which the specification allows as well."""

    def event(self, chunk: Json | str) -> bytes:
        return super().event(chunk).replace(b"\n", b"\r")


class NoBlankAfterTheColon(Double):
    """`data:` without the optional blank."""

    def event(self, chunk: Json | str) -> bytes:
        return super().event(chunk).replace(b"data: ", b"data:", 1)


class EventFields(Double):
    """Events with a name, an id and a time to retry."""

    def event(self, chunk: Json | str) -> bytes:
        return b"event: message\nid: 7\nretry: 1000\n" + super().event(chunk)


class ManyLines(Double):
    """The JSON of an event over several data lines."""

    def event(self, chunk: Json | str) -> bytes:
        if isinstance(chunk, str):
            return super().event(chunk)
        lines = json.dumps(chunk, ensure_ascii=False, indent=1).splitlines()
        return "".join(f"data: {line}\n" for line in lines).encode(errors="replace") + b"\n"


class SeparatorsOfLines(Double):
    """Characters in the JSON that some libraries take for the end of a line (U+0085, U+2028, U+2029); JSON allows them."""

    def event(self, chunk: Json | str) -> bytes:
        return super().event(chunk if isinstance(chunk, str) else {"note": "one\u0085two\u2028three\u2029four", **chunk})


class Crumbs(Double):
    """Chunks of the transfer that end anywhere, also in the middle of a character."""

    async def streamed(
        self, asked: Asked, name: str, created: int, generations: Sequence[Generation], connection: Connection
    ) -> None:
        send = connection.send

        async def crumble(data: bytes) -> None:
            for at in range(0, len(data), 61):
                await send(data[at : at + 61])

        connection.send = crumble  # type: ignore[method-assign]
        await super().streamed(asked, name, created, generations, connection)
        connection.send = send  # type: ignore[method-assign]


class SeveralTokensAChunk(Double):
    """Three tokens in every chunk, as under load or with speculative decoding."""

    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        held = [*getattr(generation, "held", []), *pieces]
        whole = generation.finish_reason or len(held) >= 3
        vars(generation)["held"] = [] if whole else held
        if whole:
            yield from super().piece(asked, head, generation, held)


class OneChunkAnAnswer(Double):
    """All tokens in one chunk, as where server or client were late."""

    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        held = [*getattr(generation, "held", []), *pieces]
        vars(generation)["held"] = held
        if generation.finish_reason:
            yield from super().piece(asked, head, generation, held)


class EmptyDeltas(Double):
    """A chunk without text before every chunk with some."""

    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        for chunk in super().piece(asked, head, generation, pieces):
            nothing: Json = {"delta": {}} if asked.chat else {"text": ""}
            empty = {**head, "choices": [{"index": generation.index, **nothing, "finish_reason": None}]}
            yield self.counted(asked, empty, generation, len(generation.tokens) - len(pieces))
            yield chunk


class RoleWithTheFirstContent(Double):
    """The role comes with the first text instead of before it."""

    def opening(self, asked: Asked, head: Json, generations: Sequence[Generation]) -> Iterator[Json]:  # noqa: ARG002
        return iter(())

    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        for chunk in super().piece(asked, head, generation, pieces):
            if asked.chat and len(generation.tokens) == len(pieces):
                chunk["choices"][0]["delta"] = {"role": "assistant", **chunk["choices"][0]["delta"]}
                chunk["prompt_token_ids"] = list(generation.prompt) if asked.token_ids else None
            yield chunk


class FinishReasonByItself(Double):
    """The finish reason comes in a chunk of its own, as OpenAI sends it."""

    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        for chunk in super().piece(asked, head, generation, pieces):
            reason = chunk["choices"][0]["finish_reason"]
            yield {**chunk, "choices": [{**chunk["choices"][0], "finish_reason": None}]}
            if reason:
                nothing: Json = {"delta": {}} if asked.chat else {"text": ""}
                last = {**head, "choices": [{"index": generation.index, **nothing, "finish_reason": reason}]}
                yield self.counted(asked, last, generation, len(generation.tokens))


class FieldsOfTheFuture(Double):
    """Fields that nobody knows yet, in every body, chunk and usage."""

    def head(self, asked: Asked, name: str, created: int, kind: str) -> Json:
        return {"x_new": {"a": [1]}, **super().head(asked, name, created, kind)}

    def usage(self, asked: Asked, prompt_tokens: int, completion_tokens: int) -> Json:
        details = {"cached_tokens": 0, "x_new": 1}
        return {**super().usage(asked, prompt_tokens, completion_tokens), "prompt_tokens_details": details}

    def message(self, asked: Asked, text: str) -> Json:
        return {**super().message(asked, text), "reasoning": None, "audio": None, "x_new": []}


class UsageForEverybody(Double):
    """The usage chunk comes unasked, as an operator may want it (vLLM's --enable-force-include-usage)."""

    def closing(self, asked: Asked, head: Json, generations: Sequence[Generation]) -> Iterator[Json]:
        return super().closing(Asked(**{**vars(asked), "include_usage": True}), head, generations)


class OldErrors(Double):
    """Refusals without `param`, with the code as text."""

    def error(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> Response:  # noqa: ARG002
        return as_json({"error": {"message": message, "type": kind, "code": str(status)}}, status)


class OneRequestAConnection(Double):
    """Every connection is closed after its answer, as some proxies do."""

    async def answer(self, request: Request, connection: Connection) -> None:
        respond = connection.respond

        def last(response: Response) -> None:
            respond(Response(status=response.status, body=response.body, headers={**response.headers, "connection": "close"}))
            connection.close()

        connection.respond = last  # type: ignore[method-assign]
        await super().answer(request, connection)


class Plain(Double):
    """No token ids, no tokenizer, no metrics, no structures, no tools: what is missing is skipped, never failed."""

    def routes(self) -> dict[str, str]:
        kept = ("/health", "/v1/models", "/openapi.json", "/v1/chat/completions", "/v1/completions")
        return {path: method for path, method in super().routes().items() if path in kept}

    def asked(self, body: Json, *, chat: bool) -> Asked:
        for name in ("response_format", "structured_outputs", "tools", "logprobs"):
            if body.get(name):
                raise RefusedError(f"{name} is not supported here", param=name)
        return super().asked({**body, "return_token_ids": False}, chat=chat)


class OnlyEmbeddings(Double):
    """Nothing but embeddings: everything else is skipped, never failed."""

    def routes(self) -> dict[str, str]:
        kept = ("/health", "/v1/models", "/openapi.json", "/v1/embeddings", "/metrics")
        return {path: method for path, method in super().routes().items() if path in kept}


# Variations of how a stream is cut up and written down; all others show in whole answers too.
OF_STREAMS = (
    *(KeepAliveComments, CarriageReturns, OldMacintoshLines, NoBlankAfterTheColon, EventFields, ManyLines, Crumbs),
    SeparatorsOfLines,
    *(SeveralTokensAChunk, OneChunkAnAnswer, EmptyDeltas, RoleWithTheFirstContent, FinishReasonByItself, UsageForEverybody),
)
OF_ANSWERS = (FieldsOfTheFuture, OldErrors, OneRequestAConnection, Plain, OnlyEmbeddings)
_ALL: tuple[type[Double], ...] = (*OF_STREAMS, *OF_ANSWERS, *OF_SERVERS, *OF_ENGINES, *OF_NUMBERS)
VARIATIONS: dict[str, type[Double]] = {variation.__name__: variation for variation in _ALL}


def described(variation: type[Double]) -> str:
    """What differs, in one sentence."""
    return str(variation.__doc__).strip().splitlines()[0]
