"""Defects of streams: how they are built, delivered and ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from doubles.asked import Asked
from doubles.bodies import Json
from doubles.defects.catalogue import defect
from doubles.generation import Generation, Piece
from doubles.refusal import RefusedError
from doubles.server import Double
from doubles.toymodel import Sampling
from doubles.wire import Connection, Request, Response

STRUCTURE = "streaming/test_structure.py::test_"
SAMENESS = "streaming/test_sameness.py::test_"
DELIVERY = "streaming/test_delivery.py::test_"
MANY = "streaming/test_many.py::test_"
TEXT = "streaming/test_text.py::test_"
DISCONNECT = "streaming/test_disconnect.py::test_"
ERRORS = "streaming/test_errors.py::test_"


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


@defect(
    "everything-again", "Every chunk says all that was said before again.", f"{SAMENESS}a_greedy_stream_is_the_greedy_answer"
)
class EverythingAgain(Double):
    def delta(self, asked: Asked, generation: Generation, text: str, *, first: bool) -> Json:
        return super().delta(asked, generation, generation.text if text else text, first=first)


@defect("a-chunk-is-lost", "The tenth token of a stream gets lost.", f"{SAMENESS}a_greedy_stream_is_the_greedy_answer")
class AChunkIsLost(Double):
    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        kept = [piece for at, piece in enumerate(pieces) if len(generation.tokens) - len(pieces) + at != 9]
        return super().piece(asked, head, generation, kept)


@defect("a-chunk-comes-twice", "The tenth token of a stream comes twice.", f"{SAMENESS}a_greedy_stream_is_the_greedy_answer")
class AChunkComesTwice(Double):
    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        doubled = [
            each
            for at, piece in enumerate(pieces)
            for each in ([piece, piece] if len(generation.tokens) - len(pieces) + at == 9 else [piece])
        ]
        return super().piece(asked, head, generation, doubled)


@defect("sampling-lost-in-streams", "Streams ignore the seed.", f"{SAMENESS}a_seeded_stream_is_the_seeded_answer")
class SamplingLostInStreams(Double):
    def sampling(self, asked: Asked) -> Sampling:
        if not asked.stream or asked.sampling.temperature == 0:
            return asked.sampling
        return Sampling(temperature=asked.sampling.temperature)


@defect("stop-string-shown", "A stream shows the beginning of the stop string.", f"{SAMENESS}a_stop_string_is_never_shown")
class StopStringShown(Double):
    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        for chunk in super().piece(asked, head, generation, pieces):
            if isinstance(generation.stop_reason, str):
                choice = chunk["choices"][0]
                place, name = (choice["delta"], "content") if asked.chat else (choice, "text")
                place[name] += generation.stop_reason
            yield chunk


@defect(
    "system-message-lost-in-streams",
    "A stream's prompt lacks the system message.",
    f"{SAMENESS}a_system_message_reaches_a_stream",
)
class SystemMessageLostInStreams(Double):
    def rendered(self, body: Json) -> list[int]:
        kept = [
            message for message in body.get("messages") or [] if isinstance(message, dict) and message.get("role") != "system"
        ]
        return super().rendered({**body, "messages": kept} if body.get("stream") and kept else body)


@defect(
    "burst-at-the-end", "All chunks come at once when the answer is done.", f"{DELIVERY}chunks_arrive_over_time", alone=True
)
class BurstAtTheEnd(Double):
    token_s = 0.0012

    async def streamed(
        self, asked: Asked, name: str, created: int, generations: Sequence[Generation], connection: Connection
    ) -> None:
        held: list[bytes] = []
        send = connection.send

        async def keep(data: bytes) -> None:
            held.append(data)

        connection.send = keep  # type: ignore[method-assign]
        finish, connection.finish = connection.finish, lambda: None  # type: ignore[method-assign]
        await super().streamed(asked, name, created, generations, connection)
        connection.send, connection.finish = send, finish  # type: ignore[method-assign]
        for data in held:
            await connection.send(data)
        connection.finish()


@defect(
    "first-chunk-late",
    "The first chunk waits for a whole answer.",
    f"{DELIVERY}the_first_chunk_comes_before_a_whole_answer_would",
    alone=True,
)
class FirstChunkLate(Double):
    token_s = 0.0012

    async def streamed(
        self, asked: Asked, name: str, created: int, generations: Sequence[Generation], connection: Connection
    ) -> None:
        await asyncio.sleep(2 * asked.max_tokens * self.token_s)
        await super().streamed(asked, name, created, generations, connection)


@defect(
    "tokens-lost-under-load",
    "When several streams run, chunks of several tokens keep one.",
    f"{DELIVERY}tokens_that_share_a_chunk_are_all_there",
    alone=True,
)
class TokensLostUnderLoad(Double):
    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        crowded = self.counts["running"] > 4 and len(generation.tokens) > 8
        return super().piece(asked, head, generation, pieces[:-1] if crowded and not generation.finish_reason else pieces)


@defect(
    "long-answers-are-cut",
    "Answers of more than 1,000 tokens lose their end.",
    f"{DELIVERY}a_long_response_comes_whole",
    alone=True,
)
class LongAnswersAreCut(Double):
    async def streamed(
        self, asked: Asked, name: str, created: int, generations: Sequence[Generation], connection: Connection
    ) -> None:
        send, sent = connection.send, 0

        async def limited(data: bytes) -> None:
            nonlocal sent
            sent += 1
            if sent > 400 and len(generations[0].tokens) > 1000:
                connection.abort()
            await send(data)

        connection.send = limited  # type: ignore[method-assign]
        await super().streamed(asked, name, created, generations, connection)
        connection.send = send  # type: ignore[method-assign]


@defect(
    "streams-are-swapped",
    "Streams that begin together get each other's prompt.",
    f"{MANY}concurrent_streams_answer_their_own_question",
)
class StreamsAreSwapped(Double):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.last: Asked | None = None

    def generations(self, asked: Asked) -> list[Generation]:
        other, self.last = self.last, asked
        swapped = asked.stream and self.counts["running"] > 1 and other is not None and other.stream
        if not swapped or other is None:
            return super().generations(asked)
        return [
            Generation(asked=asked, prompt=other.prompts[0], choice=each, index=each, sampling=asked.sampling)
            for each in range(asked.n)
        ]


@defect("ids-are-reused", "Every tenth stream has the id of the one before.", f"{MANY}streams_in_rapid_succession")
class IdsAreReused(Double):
    def number(self) -> int:
        found = super().number()
        return found - 1 if found % 10 == 0 else found


@defect("no-queue", "A stream more than there are slots is refused.", f"{MANY}more_streams_than_slots_all_come_to_their_end")
class NoQueue(Double):
    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        if self._slots.locked():
            raise RefusedError("too many requests", status=429, kind="TooManyRequests")
        async with super().slot():
            yield


@defect(
    "lengths-are-mixed", "Concurrent streams end where their neighbour's would.", f"{MANY}concurrent_streams_are_kept_apart"
)
class LengthsAreMixed(Double):
    def generations(self, asked: Asked) -> list[Generation]:
        made = super().generations(asked)
        if asked.stream and self.counts["running"] > 2 and asked.max_tokens > 4:
            shorter = Asked(**{**vars(asked), "max_tokens": asked.max_tokens - 2})
            for generation in made:
                generation.asked = shorter
        return made


@defect(
    "streams-for-everyone",
    "While somebody streams, others get streams as well.",
    f"{MANY}streams_and_whole_answers_do_not_disturb_each_other",
)
class StreamsForEveryone(Double):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.streams = 0

    def asked(self, body: Json, *, chat: bool) -> Asked:
        self.streams += bool(body.get("stream"))
        many = self.streams and self.counts["running"] > 2
        return super().asked({**body, "stream": True} if many else body, chat=chat)


@defect("half-characters", "Characters of several bytes arrive broken.", f"{TEXT}characters_of_several_tokens_are_not_broken")
class HalfCharacters(Double):
    def event(self, chunk: Json | str) -> bytes:
        data = json.dumps(chunk, ensure_ascii=False) if isinstance(chunk, dict) else chunk
        return "".join(each if ord(each) < 128 else "\ufffd" for each in f"data: {data}\n\n").encode()


@defect("no-utf8", "Bytes that are no character leave the server as they are.", f"{TEXT}a_stream_is_valid_utf8")
class NoUtf8(Double):
    def event(self, chunk: Json | str) -> bytes:
        return super().event(chunk).replace("\ufffd".encode(), b"\xff")


@defect(
    "corrected-later",
    "An incomplete character is shown as a replacement character, and corrected with the next chunk.",
    f"{TEXT}no_half_character_is_shown_on_the_way",
)
class CorrectedLater(Double):
    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        for chunk in super().piece(asked, head, generation, pieces):
            choice = chunk["choices"][0]
            place, name = (choice["delta"], "content") if asked.chat else (choice, "text")
            if not place.get(name) and not generation.finish_reason:
                place[name] = "\ufffd"
            yield chunk


@defect(
    "slots-leak",
    "A client that hangs up leaves its slot taken.",
    f"{DISCONNECT}a_client_that_hangs_up_frees_its_slot",
    alone=True,
)
class SlotsLeak(Double):
    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        try:
            async with super().slot():
                yield
        except asyncio.CancelledError:
            self.counts["running"] += 1
            raise


@defect(
    "works-for-nobody",
    "An answer is made to its end although its client has gone.",
    f"{DISCONNECT}a_client_that_hangs_up_frees_its_slot",
    alone=True,
)
class WorksForNobody(Double):
    token_s = 0.002

    async def completed(self, asked: Asked, body: Json, connection: Connection) -> Response | None:
        work = asyncio.create_task(super().completed(asked, body, connection))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            connection.send = _into_the_void  # type: ignore[method-assign]
            connection.finish = lambda: None  # type: ignore[method-assign]
            self.work = work
            raise


async def _into_the_void(data: bytes) -> None:
    """Where the work for somebody who is gone ends up."""


@defect(
    "errors-as-streams", "A refusal comes as a stream with status 200.", f"{ERRORS}a_bad_request_is_refused_before_the_stream"
)
class ErrorsAsStreams(Double):
    async def routed(self, request: Request, connection: Connection) -> Response | None:
        try:
            return await super().routed(request, connection)
        except RefusedError as error:
            if b'"stream": true' not in request.body and b'"stream":true' not in request.body:
                raise
            connection.begin({"content-type": "text/event-stream"})
            await connection.send(self.event({"error": {"message": error.message, "code": error.status}}) + self.end())
            connection.finish()
            return None


@defect(
    "options-without-a-stream",
    "Stream options are taken without a stream.",
    f"{ERRORS}stream_options_without_a_stream_are_refused",
)
class OptionsWithoutAStream(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        return super().asked(body if body.get("stream") else {**body, "stream_options": None}, chat=chat)


@defect("errors-now-and-then", "Every tenth stream ends with an error.", f"{ERRORS}no_stream_that_was_begun_holds_an_error")
class ErrorsNowAndThen(Double):
    def closing(self, asked: Asked, head: Json, generations: Sequence[Generation]) -> Iterator[Json]:
        if self.number() % 10 == 0:
            yield {"error": {"message": "out of memory", "type": "InternalServerError", "code": 500}}
        yield from super().closing(asked, head, generations)


@defect(
    "a-neighbour-notices",
    "When a client hangs up, the others' streams break.",
    f"{DISCONNECT}a_neighbour_does_not_notice",
    alone=True,
)
class ANeighbourNotices(Double):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.open: set[Connection] = set()

    async def streamed(
        self, asked: Asked, name: str, created: int, generations: Sequence[Generation], connection: Connection
    ) -> None:
        self.open.add(connection)
        try:
            await super().streamed(asked, name, created, generations, connection)
        except asyncio.CancelledError:
            for other in self.open - {connection}:
                other.abort()
            raise
        finally:
            self.open.discard(connection)


PIECES = "streaming/test_pieces.py::test_"


@defect(
    "pieces-of-calls-get-lost",
    "The second piece of a call's arguments gets lost.",
    f"{PIECES}the_pieces_of_a_call_make_the_whole_call",
)
class PiecesOfCallsGetLost(Double):
    def delta(self, asked: Asked, generation: Generation, text: str, *, first: bool) -> Json:
        cut = asked.call and 1 < len(generation.tokens) < 4
        return super().delta(asked, generation, "" if cut else text, first=first)


@defect(
    "every-piece-names-the-call", "Every piece of a call repeats its name.", f"{PIECES}the_first_piece_of_a_call_says_which"
)
class EveryPieceNamesTheCall(Double):
    def delta(self, asked: Asked, generation: Generation, text: str, *, first: bool) -> Json:
        return super().delta(asked, generation, text, first=first or bool(asked.call))


@defect("structure-lost-in-streams", "Streams ignore the schema.", f"{PIECES}the_pieces_of_a_structured_answer_make_the_whole")
class StructureLostInStreams(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        return super().asked({**body, "response_format": None} if body.get("stream") else body, chat=chat)


@defect(
    "the-sdk-gets-less",
    "Who asks through the official SDK gets the first half.",
    f"{SAMENESS}the_official_client_reads_the_same",
)
class TheSdkGetsLess(Double):
    async def routed(self, request: Request, connection: Connection) -> Response | None:
        self.sdk = "x-stainless-lang" in request.headers
        return await super().routed(request, connection)

    def delta(self, asked: Asked, generation: Generation, text: str, *, first: bool) -> Json:
        return super().delta(asked, generation, "" if self.sdk and len(generation.tokens) > 16 else text, first=first)


@defect("scripts-lost-in-streams", "Streams read prompts as ASCII.", f"{TEXT}a_prompt_in_many_scripts_is_read_as_in_one_piece")
class ScriptsLostInStreams(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        plain = (
            json.loads(json.dumps(body, ensure_ascii=False).encode("ascii", errors="ignore")) if body.get("stream") else body
        )
        return super().asked(plain, chat=chat)


@defect(
    "every-tenth-slot-leaks",
    "Now and then a client that hangs up leaves its slot taken.",
    f"{DISCONNECT}many_clients_that_hang_up_leave_nothing_behind",
    alone=True,
)
class EveryTenthSlotLeaks(Double):
    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        try:
            async with super().slot():
                yield
        except asyncio.CancelledError:
            self.counts["running"] += self.number() % 10 == 0
            raise


@defect(
    "early-leavers-stay",
    "Who hangs up before the first token is counted for ever.",
    f"{DISCONNECT}clients_that_leave_before_the_first_token_free_their_place",
    alone=True,
)
class EarlyLeaversStay(Double):
    async def streamed(
        self, asked: Asked, name: str, created: int, generations: Sequence[Generation], connection: Connection
    ) -> None:
        try:
            await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            self.counts["waiting"] += 1
            raise
        await super().streamed(asked, name, created, generations, connection)
