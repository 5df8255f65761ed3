"""Streams that differ from those of the double in ways that the wire format or the documentation of several servers allows.

No case of the streaming suite may fail for any of them. Those that name no version are not taken for vLLM.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from doubles.asked import Asked
from doubles.bodies import Json
from doubles.generation import Generation, Piece
from doubles.refusal import RefusedError
from doubles.server import Double
from doubles.wire import Connection, Request, Response

_EXTENSIONS = ("ignore_eos", "return_token_ids", "structured_outputs", "min_tokens", "stop_token_ids", "bad_words")


class Other(Double):
    """Another engine: no version, no tokenizer, no metrics, no token ids."""

    def routes(self) -> dict[str, str]:
        kept = ("/health", "/v1/models", "/v1/chat/completions", "/v1/completions")
        return {path: method for path, method in super().routes().items() if path in kept}

    def asked(self, body: Json, *, chat: bool) -> Asked:
        kept = {name: value for name, value in body.items() if name not in _EXTENSIONS}
        options = kept.get("stream_options")
        if isinstance(options, dict):
            kept["stream_options"] = {"include_usage": options.get("include_usage")}
        return super().asked(kept, chat=chat)


class Strict(Other):
    """Another engine that refuses fields it does not know, as OpenAI does."""

    def asked(self, body: Json, *, chat: bool) -> Asked:
        unknown = [name for name in _EXTENSIONS if name in body]
        if unknown or set(body.get("stream_options") or {}) - {"include_usage"}:
            raise RefusedError(f"Unrecognized request argument supplied: {unknown}")
        return super().asked(body, chat=chat)


class WithoutUsage(Other):
    """Streams have no usage: the field is ignored."""

    def closing(self, asked: Asked, head: Json, generations: Sequence[Generation]) -> Iterator[Json]:  # noqa: ARG002
        return iter(())


class RefusesStreamOptions(Other):
    """A server from before `stream_options`: it refuses the field."""

    def asked(self, body: Json, *, chat: bool) -> Asked:
        if "stream_options" in body:
            raise RefusedError("stream_options: extra fields not permitted", param="stream_options")
        return super().asked(body, chat=chat)


class UsageOnTheLastChunk(Double):
    """Usage comes with the finish reason."""

    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        for chunk in super().piece(asked, head, generation, pieces):
            if asked.include_usage and not asked.continuous_usage and generation.finish_reason:
                chunk["usage"] = self.usage(asked, len(generation.prompt), asked.n * len(generation.tokens))
            yield chunk

    def closing(self, asked: Asked, head: Json, generations: Sequence[Generation]) -> Iterator[Json]:
        return super().closing(asked, head, generations) if asked.continuous_usage or asked.n > 1 else iter(())

    def counted(self, asked: Asked, chunk: Json, generation: Generation, tokens: int) -> Json:  # noqa: ARG002
        return chunk


class NullChoices(Double):
    """The usage chunk has `choices: null`."""

    def event(self, chunk: Json | str) -> bytes:
        return super().event({**chunk, "choices": None} if isinstance(chunk, dict) and chunk.get("choices") == [] else chunk)


class NoChoices(Double):
    """The usage chunk has no choices at all."""

    def event(self, chunk: Json | str) -> bytes:
        bare = isinstance(chunk, dict) and chunk.get("choices") == []
        kept = (
            {name: value for name, value in chunk.items() if name != "choices"} if bare and isinstance(chunk, dict) else chunk
        )
        return super().event(kept)


class NullUsage(Double):
    """Chunks before the last have `usage: null`, as OpenAI sends them, with a fingerprint and padding against eavesdroppers."""

    def event(self, chunk: Json | str) -> bytes:
        added = {"usage": None, "system_fingerprint": "fp_1", "service_tier": "default", "obfuscation": "aX9"}
        return super().event({**added, **chunk} if isinstance(chunk, dict) else chunk)


class FilterResultsFirst(Other):
    """The first chunk has no choice, no id and no model: results of a filter of the prompt, as on Azure."""

    def opening(self, asked: Asked, head: Json, generations: Sequence[Generation]) -> Iterator[Json]:
        yield {"id": "", "object": head["object"], "created": 0, "model": "", "choices": [], "prompt_filter_results": []}
        yield from super().opening(asked, head, generations)


class RoleInEveryChunk(Other):
    """The role is repeated in every chunk, as some servers do."""

    def delta(self, asked: Asked, generation: Generation, text: str, *, first: bool) -> Json:
        return {"role": "assistant", **super().delta(asked, generation, text, first=first)}


class RoleWithoutContent(Double):
    """The chunk with the role has no content, or null."""

    def opening(self, asked: Asked, head: Json, generations: Sequence[Generation]) -> Iterator[Json]:
        for chunk in super().opening(asked, head, generations):
            del chunk["choices"][0]["delta"]["content"]
            yield chunk


class NullContent(Double):
    """Chunks without text have `content: null`, and unused fields are null."""

    def delta(self, asked: Asked, generation: Generation, text: str, *, first: bool) -> Json:
        said = super().delta(asked, generation, text, first=first)
        return {"tool_calls": None, "refusal": None, **said, **({} if asked.call else {"content": text or None})}


class EmptyFinishReason(Other):
    """The finish reason is an empty string until the end."""

    def event(self, chunk: Json | str) -> bytes:
        for choice in chunk.get("choices", ()) if isinstance(chunk, dict) else ():
            choice["finish_reason"] = choice.get("finish_reason") or ""
        return super().event(chunk)


class OnlyReasoning(Other):
    """All tokens come as reasoning, in the field of its own that several servers have: the limit ends it before the answer."""

    def delta(self, asked: Asked, generation: Generation, text: str, *, first: bool) -> Json:
        return super().delta(asked, generation, text, first=first) if asked.call else {"reasoning_content": text}

    def message(self, asked: Asked, text: str) -> Json:
        said = super().message(asked, text)
        return said if asked.call else {**said, "content": None, "reasoning_content": text}


class DatedSnapshot(Other):
    """The model is named with the date of its snapshot, in whole answers and in chunks."""

    def model_said(self, asked: Asked) -> str:
        return f"{super().model_said(asked)}-2026-08-06"


class ClosedByTheServer(Double):
    """HTTP/1.0: no framing, the end of the connection ends the stream; headers are in upper case."""

    async def streamed(
        self, asked: Asked, name: str, created: int, generations: Sequence[Generation], connection: Connection
    ) -> None:
        def begin(headers: Mapping[str, str]) -> None:
            lines = ["HTTP/1.0 200 OK", *(f"{key.upper()}: {value}" for key, value in headers.items()), "", ""]
            connection.raw("\r\n".join(lines).encode())

        async def send(data: bytes) -> None:
            await asyncio.sleep(0)
            connection.raw(data)

        connection.begin, connection.send, connection.finish = begin, send, connection.close  # type: ignore[method-assign]
        await super().streamed(asked, name, created, generations, connection)


class LateFirstToken(Other):
    """The first token takes half a second: a long queue, or a slow prompt."""

    wait_s = 0.5

    async def completed(self, asked: Asked, body: Json, connection: Connection) -> Any:
        await asyncio.sleep(self.wait_s)
        return await super().completed(asked, body, connection)


class OnlyChat(Other):
    """Chat is the only surface."""

    def routes(self) -> dict[str, str]:
        return {path: method for path, method in super().routes().items() if path != "/v1/completions"}


class OnlyCompletions(Other):
    """Completions are the only surface."""

    def routes(self) -> dict[str, str]:
        return {path: method for path, method in super().routes().items() if path != "/v1/chat/completions"}


class Lenient(Other):
    """Values that are not valid are ignored."""

    def asked(self, body: Json, *, chat: bool) -> Asked:
        try:
            return super().asked(body, chat=chat)
        except RefusedError:
            bad = ("temperature", "top_p", "max_tokens", "stream_options")
            return super().asked({name: value for name, value in body.items() if name not in bad}, chat=chat)


class SpecialTokensInLogprobs(Double):
    """The text leaves out special tokens and shows incomplete characters as replacements; the log probabilities have both."""

    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        at = len(generation.tokens)
        for chunk in super().piece(asked, head, generation, pieces):
            choice = chunk["choices"][0]
            if asked.chat and choice["logprobs"] and len(pieces) == 1 and at in (3, 5):
                token, raw, shown = ("<|begin|>", list(b"<|begin|>"), "") if at == 3 else ("\ufffd", [0xE6], "\ufffd")
                choice["logprobs"]["content"][0] |= {"token": token, "bytes": raw}
                choice["delta"]["content"] = shown
            yield chunk


class Compressed(Double):
    """Streams are compressed for clients that accept gzip, and each event is flushed."""

    token_s = 0.0012
    flushed = True

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        connection.compresses = "gzip" in request.headers.get("accept-encoding", "")  # type: ignore[attr-defined]
        return await super().routed(request, connection)

    async def streamed(
        self, asked: Asked, name: str, created: int, generations: Sequence[Generation], connection: Connection
    ) -> None:
        if not connection.compresses:  # type: ignore[attr-defined]
            await super().streamed(asked, name, created, generations, connection)
            return
        begin, send, finish = connection.begin, connection.send, connection.finish
        deflate, rest = zlib.compressobj(wbits=zlib.MAX_WBITS | 16), b""

        def coded(headers: Mapping[str, str]) -> None:
            begin({**headers, "content-encoding": "gzip"})

        async def compress(data: bytes) -> None:
            nonlocal rest
            made = deflate.compress(data) + (deflate.flush(zlib.Z_SYNC_FLUSH) if self.flushed else b"")
            rest += b"" if self.flushed else made
            await send(made if self.flushed else b"")

        connection.begin, connection.send, connection.finish = coded, compress, lambda: None  # type: ignore[method-assign]
        await super().streamed(asked, name, created, generations, connection)
        connection.begin, connection.send, connection.finish = begin, send, finish  # type: ignore[method-assign]
        await connection.send(rest + deflate.flush())
        connection.finish()


class _EndsInACharacter(Generation):
    """The tokens run out in the middle of a character; a stream waits for its rest, and an answer in one piece shows it."""

    def _rest(self) -> str:
        if self.finish_reason != "length" or self.asked.forced:
            return super()._rest()
        return "" if self.asked.stream else "\ufffd"


class WaitsForTheRestOfACharacter(Double):
    """A character that is incomplete at the end is left out of streams, and a replacement in an answer in one piece."""

    generation = _EndsInACharacter


VARIATIONS: dict[str, type[Double]] = {
    each.__name__: each
    for each in (
        *(Other, Strict, WithoutUsage, RefusesStreamOptions, UsageOnTheLastChunk, NullChoices, NoChoices, NullUsage),
        *(FilterResultsFirst, RoleInEveryChunk, RoleWithoutContent, NullContent, EmptyFinishReason, OnlyReasoning),
        *(DatedSnapshot, ClosedByTheServer, LateFirstToken, OnlyChat, OnlyCompletions, Lenient, Compressed),
        *(SpecialTokensInLogprobs, WaitsForTheRestOfACharacter),
    )
}
