"""Defects of streams: how they are built, delivered and ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from doubles.asked import Asked
from doubles.bodies import Json
from doubles.defects.catalogue import defect
from doubles.generation import Generation, Piece
from doubles.server import Double
from doubles.wire import Connection

STRUCTURE = "streaming/test_structure.py::test_"


@defect("missing-done", "The stream ends without [DONE].", f"{STRUCTURE}ends_with_done_once")
class MissingDone(Double):
    def end(self) -> bytes:
        return b""


@defect("done-twice", "[DONE] comes twice.", f"{STRUCTURE}ends_with_done_once")
class DoneTwice(Double):
    def end(self) -> bytes:
        return super().end() * 2


@defect(
    "no-end-of-body", "The connection breaks after [DONE] instead of ending as its framing says.", f"{STRUCTURE}arrives_whole"
)
class NoEndOfBody(Double):
    async def streamed(
        self, asked: Asked, name: str, created: int, generations: Sequence[Generation], connection: Connection
    ) -> None:
        connection.finish = connection.abort  # type: ignore[method-assign]
        await super().streamed(asked, name, created, generations, connection)


@defect("error-inside-200", "An error object comes inside a stream that began with 200.", f"{STRUCTURE}holds_no_error_object")
class ErrorInside(Double):
    def closing(self, asked: Asked, head: Json, generations: Sequence[Generation]) -> Iterator[Json]:
        yield {"error": {"message": "the engine is dead", "type": "InternalServerError", "code": 500}}
        yield from super().closing(asked, head, generations)


@defect("half-an-object", "One event holds half a JSON object.", f"{STRUCTURE}every_event_is_a_json_object")
class HalfAnObject(Double):
    def event(self, chunk: Json | str) -> bytes:
        whole = super().event(chunk)
        last = isinstance(chunk, dict) and chunk.get("choices") and chunk["choices"][0].get("finish_reason")
        return whole[: len(whole) // 2] + b"\n\n" if last else whole


@defect("announced-as-json", "The stream's content type is application/json.", f"{STRUCTURE}is_announced_as_an_event_stream")
class AnnouncedAsJson(Double):
    async def streamed(
        self, asked: Asked, name: str, created: int, generations: Sequence[Generation], connection: Connection
    ) -> None:
        begin = connection.begin
        connection.begin = lambda headers: begin({**headers, "content-type": "application/json"})  # type: ignore[method-assign]
        await super().streamed(asked, name, created, generations, connection)


@defect("usage-off-by-one", "The usage of a stream counts one token too many.", f"{STRUCTURE}usage_counts_the_tokens_that_came")
class UsageOffByOne(Double):
    def closing(self, asked: Asked, head: Json, generations: Sequence[Generation]) -> Iterator[Json]:
        for chunk in super().closing(asked, head, generations):
            chunk["usage"]["completion_tokens"] += 1
            chunk["usage"]["total_tokens"] += 1
            yield chunk


@defect("usage-does-not-add-up", "The usage of a stream leaves the prompt out of the total.", f"{STRUCTURE}usage_adds_up")
class UsageDoesNotAddUp(Double):
    def closing(self, asked: Asked, head: Json, generations: Sequence[Generation]) -> Iterator[Json]:
        for chunk in super().closing(asked, head, generations):
            chunk["usage"]["total_tokens"] = chunk["usage"]["completion_tokens"]
            yield chunk


@defect("no-usage", "The usage that was asked for does not come.", f"{STRUCTURE}usage_comes_last_and_without_choices")
class NoUsage(Double):
    def closing(self, asked: Asked, head: Json, generations: Sequence[Generation]) -> Iterator[Json]:  # noqa: ARG002
        return iter(())


@defect("usage-with-choices", "The usage chunk carries an empty choice.", f"{STRUCTURE}usage_comes_last_and_without_choices")
class UsageWithChoices(Double):
    def closing(self, asked: Asked, head: Json, generations: Sequence[Generation]) -> Iterator[Json]:
        for chunk in super().closing(asked, head, generations):
            yield {**chunk, "choices": [{"index": 0, "delta": {}, "text": "", "finish_reason": None}]}


@defect("usage-unasked", "The first chunk carries a usage nobody asked for.", f"{STRUCTURE}usage_is_not_sent_unless_asked")
class UsageUnasked(Double):
    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        for chunk in super().piece(asked, head, generation, pieces):
            yield chunk if asked.include_usage else {**chunk, "usage": self.usage(asked, 1, 1)}


@defect(
    "prompt-counted-twice", "A stream counts its prompt twice.", f"{STRUCTURE}prompt_tokens_are_those_of_an_answer_in_one_piece"
)
class PromptCountedTwice(Double):
    def closing(self, asked: Asked, head: Json, generations: Sequence[Generation]) -> Iterator[Json]:
        for chunk in super().closing(asked, head, generations):
            chunk["usage"]["total_tokens"] += chunk["usage"]["prompt_tokens"]
            chunk["usage"]["prompt_tokens"] *= 2
            yield chunk


@defect("counts-go-back", "The counts in the chunks stay at one.", f"{STRUCTURE}counts_in_every_chunk_grow_to_the_total")
class CountsGoBack(Double):
    def counted(self, asked: Asked, chunk: Json, generation: Generation, tokens: int) -> Json:
        return super().counted(asked, chunk, generation, max(3 - tokens, 0))


@defect("no-finish-reason", "No chunk says why the stream ended.", f"{STRUCTURE}the_finish_reason_comes_once")
class NoFinishReason(Double):
    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        for chunk in super().piece(asked, head, generation, pieces):
            chunk["choices"][0]["finish_reason"] = None
            yield chunk


@defect("finish-reason-twice", "The finish reason comes twice.", f"{STRUCTURE}the_finish_reason_comes_once")
class FinishReasonTwice(Double):
    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        for chunk in super().piece(asked, head, generation, pieces):
            yield chunk
            if generation.finish_reason:
                empty: Json = {"delta": {}} if asked.chat else {"text": ""}
                choice = {"index": generation.index, **empty, "finish_reason": generation.finish_reason}
                yield {**head, "choices": [choice]}


@defect("talks-after-the-end", "Text comes after the finish reason.", f"{STRUCTURE}nothing_is_said_after_the_finish_reason")
class TalksAfterTheEnd(Double):
    def closing(self, asked: Asked, head: Json, generations: Sequence[Generation]) -> Iterator[Json]:
        said: Json = {"delta": {"content": "by the way"}} if asked.chat else {"text": "by the way"}
        yield {**head, "choices": [{"index": 0, **said, "finish_reason": None}]}
        yield from super().closing(asked, head, generations)


@defect("stops-for-no-reason", "A stream that was cut says `stop`.", f"{STRUCTURE}max_tokens_ends_a_stream_with_length")
class StopsForNoReason(Double):
    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        for chunk in super().piece(asked, head, generation, pieces):
            if chunk["choices"][0]["finish_reason"] == "length":
                chunk["choices"][0]["finish_reason"] = "stop"
            yield chunk


@defect("no-role", "No chunk says who speaks.", f"{STRUCTURE}the_role_comes_first_and_once")
class NoRole(Double):
    def opening(self, asked: Asked, head: Json, generations: Sequence[Generation]) -> Iterator[Json]:
        for chunk in super().opening(asked, head, generations):
            del chunk["choices"][0]["delta"]["role"]
            yield chunk


@defect("role-in-every-chunk", "Every chunk announces the role again.", f"{STRUCTURE}the_role_comes_first_and_once")
class RoleInEveryChunk(Double):
    def delta(self, asked: Asked, generation: Generation, text: str, *, first: bool) -> Json:
        return {"role": "assistant", **super().delta(asked, generation, text, first=first)}


@defect("another-id", "Chunks carry ids of their own.", f"{STRUCTURE}chunks_carry_the_same_id")
class AnotherId(Double):
    def event(self, chunk: Json | str) -> bytes:
        return super().event({**chunk, "id": f"chatcmpl-{self.number()}"} if isinstance(chunk, dict) else chunk)


@defect("another-object", "Chunks are announced as whole answers.", f"{STRUCTURE}chunks_say_what_they_are")
class AnotherObject(Double):
    def event(self, chunk: Json | str) -> bytes:
        return super().event({**chunk, "object": "chat.completion"} if isinstance(chunk, dict) else chunk)


@defect(
    "another-model-streamed",
    "Chunks name a model that nobody asked for.",
    f"{STRUCTURE}chunks_name_the_model_that_was_asked_for",
)
class AnotherModelStreamed(Double):
    def event(self, chunk: Json | str) -> bytes:
        return super().event({**chunk, "model": "another"} if isinstance(chunk, dict) else chunk)


@defect("created-again", "Every chunk was created at another time.", f"{STRUCTURE}chunks_were_made_at_the_same_time")
class CreatedAgain(Double):
    def event(self, chunk: Json | str) -> bytes:
        again = isinstance(chunk, dict) and "created" in chunk
        return super().event(
            {**chunk, "created": chunk["created"] + self.number()} if again and isinstance(chunk, dict) else chunk
        )


@defect(
    "choices-share-an-index", "All choices of a stream have index 0.", f"{STRUCTURE}several_choices_are_streamed_side_by_side"
)
class ChoicesShareAnIndex(Double):
    def event(self, chunk: Json | str) -> bytes:
        for choice in chunk.get("choices", ()) if isinstance(chunk, dict) else ():
            choice["index"] = 0
        return super().event(chunk)


@defect(
    "logprobs-of-one-token",
    "A chunk brings the log probability of its first token only.",
    f"{STRUCTURE}every_token_brings_its_logprob",
)
class LogprobsOfOneToken(Double):
    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        for chunk in super().piece(asked, head, generation, pieces):
            held = chunk["choices"][0]["logprobs"]
            if held and len(generation.tokens) % 3 == 0:
                held["content"] = []
            yield chunk


@defect("wrong-index", "The only choice of a stream has index 1.", f"{STRUCTURE}choices_have_the_index_of_their_answer")
class WrongIndex(Double):
    def event(self, chunk: Json | str) -> bytes:
        if isinstance(chunk, dict) and len(chunk.get("choices", ())) == 1:
            chunk = {**chunk, "choices": [{**chunk["choices"][0], "index": chunk["choices"][0]["index"] + 1}]}
        return super().event(chunk)


@defect("index-as-text", "The index of a choice is a string.", f"{STRUCTURE}choices_have_the_index_of_their_answer")
class IndexAsText(Double):
    def event(self, chunk: Json | str) -> bytes:
        if isinstance(chunk, dict) and chunk.get("choices"):
            chunk = {**chunk, "choices": [{**choice, "index": str(choice["index"])} for choice in chunk["choices"]]}
        return super().event(chunk)


@defect("role-changes", "The second chunk announces another role.", f"{STRUCTURE}the_role_comes_first_and_once")
class RoleChanges(Double):
    def delta(self, asked: Asked, generation: Generation, text: str, *, first: bool) -> Json:
        said = super().delta(asked, generation, text, first=first)
        return {"role": "user", **said} if first else said


@defect("two-finish-reasons", "A stream ends with `length`, and then with `stop`.", f"{STRUCTURE}the_finish_reason_comes_once")
class TwoFinishReasons(Double):
    def closing(self, asked: Asked, head: Json, generations: Sequence[Generation]) -> Iterator[Json]:
        empty: Json = {"delta": {}} if asked.chat else {"text": ""}
        yield {**head, "choices": [{"index": 0, **empty, "finish_reason": "stop"}]}
        yield from super().closing(asked, head, generations)


@defect("usage-twice", "The usage chunk comes twice.", f"{STRUCTURE}usage_comes_last_and_without_choices")
class UsageTwice(Double):
    def closing(self, asked: Asked, head: Json, generations: Sequence[Generation]) -> Iterator[Json]:
        for chunk in super().closing(asked, head, generations):
            yield chunk
            yield chunk


@defect("usage-before-the-end", "Usage comes before the last token.", f"{STRUCTURE}usage_comes_last_and_without_choices")
class UsageBeforeTheEnd(Double):
    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        for chunk in super().piece(asked, head, generation, pieces):
            if asked.include_usage and generation.finish_reason:
                yield {**head, "choices": [], "usage": self.usage(asked, len(generation.prompt), len(generation.tokens))}
            yield chunk

    def closing(self, asked: Asked, head: Json, generations: Sequence[Generation]) -> Iterator[Json]:  # noqa: ARG002
        return iter(())


@defect("a-foreign-chunk", "A chunk of another request comes in between.", f"{STRUCTURE}chunks_carry_the_same_id")
class AForeignChunk(Double):
    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        for chunk in super().piece(asked, head, generation, pieces):
            yield chunk
            if len(generation.tokens) - len(pieces) < 3 <= len(generation.tokens):
                said: Json = {"delta": {"content": "not yours"}} if asked.chat else {"text": "not yours"}
                yield {**head, "id": "another", "choices": [{"index": 0, **said, "finish_reason": None}]}


@defect("comments-as-data", "Keep-alive comments come as data.", f"{STRUCTURE}every_event_is_a_json_object")
class CommentsAsData(Double):
    def event(self, chunk: Json | str) -> bytes:
        return b"data: : keep-alive\n\n" + super().event(chunk) if isinstance(chunk, dict) else super().event(chunk)


@defect(
    "a-blank-line-in-an-event", "A blank line cuts an event in two.", f"{STRUCTURE}every_event_is_a_json_object", alone=True
)
class ABlankLineInAnEvent(Double):
    def event(self, chunk: Json | str) -> bytes:
        data = super().event(chunk)
        return data.replace(b',"created"', b',\n\ndata: "created"') if isinstance(chunk, dict) else data


@defect("done-as-json", "[DONE] comes in quotes.", f"{STRUCTURE}ends_with_done_once")
class DoneAsJson(Double):
    def end(self) -> bytes:
        return self.event('"[DONE]"')


@defect("talks-after-done", "A chunk comes after [DONE].", f"{STRUCTURE}ends_with_done_once")
class TalksAfterDone(Double):
    def end(self) -> bytes:
        return super().end() + self.event({"id": "late", "object": "chat.completion.chunk", "choices": []})


@defect("no-id", "Chunks have no id.", f"{STRUCTURE}chunks_carry_the_same_id")
class NoId(Double):
    def event(self, chunk: Json | str) -> bytes:
        return super().event(
            {name: value for name, value in chunk.items() if name != "id"} if isinstance(chunk, dict) else chunk
        )


@defect(
    "one-token-short",
    "A stream ends one token before its limit.",
    f"{STRUCTURE}max_tokens_ends_a_stream_with_length",
)
class OneTokenShort(Double):
    def generations(self, asked: Asked) -> list[Generation]:
        shorter = Asked(**{**vars(asked), "max_tokens": max(asked.max_tokens - 1, 1)})
        return super().generations(shorter if asked.stream else asked)


@defect(
    "logprobs-of-other-tokens",
    "The log probabilities of a stream are those of other tokens.",
    f"{STRUCTURE}every_token_brings_its_logprob",
)
class LogprobsOfOtherTokens(Double):
    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        for chunk in super().piece(asked, head, generation, pieces):
            held = chunk["choices"][0]["logprobs"]
            if held:
                held["content"] = [{**entry, "token": "z", "bytes": [122]} for entry in held["content"]]
            yield chunk


@defect(
    "a-stream-breaks-off",
    "The connection breaks in the middle of a stream.",
    f"{STRUCTURE}arrives_whole",
)
class AStreamBreaksOff(Double):
    async def streamed(
        self, asked: Asked, name: str, created: int, generations: Sequence[Generation], connection: Connection
    ) -> None:
        send, sent = connection.send, 0

        async def limited(data: bytes) -> None:
            nonlocal sent
            sent += 1
            if sent > 6:
                connection.abort()
            await send(data)

        connection.send = limited  # type: ignore[method-assign]
        await super().streamed(asked, name, created, generations, connection)
