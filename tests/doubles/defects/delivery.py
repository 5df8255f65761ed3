"""Defects of what a stream says and when: it has to be the same answer, delivered while it is made."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence

from doubles.asked import Asked
from doubles.bodies import Json
from doubles.defects.catalogue import defect
from doubles.generation import Generation, Piece
from doubles.legal_streams import Compressed
from doubles.server import Double
from doubles.toymodel import Sampling
from doubles.wire import Connection, Request, Response

SAMENESS = "streaming/test_sameness.py::test_"
DELIVERY = "streaming/test_delivery.py::test_"
TEXT = "streaming/test_text.py::test_"
PIECES = "streaming/test_pieces.py::test_"


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
        send = connection.send

        async def limited(data: bytes) -> None:
            if len(generations[0].tokens) > 1000:
                connection.abort()
            await send(data)

        connection.send = limited  # type: ignore[method-assign]
        await super().streamed(asked, name, created, generations, connection)
        connection.send = send  # type: ignore[method-assign]


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


class Held(Double):
    """Chunks are kept back and delivered in groups."""

    token_s = 0.0012

    def full(self, held: int, total: int) -> bool:
        """Whether so many chunks are delivered now."""
        raise NotImplementedError

    async def streamed(
        self, asked: Asked, name: str, created: int, generations: Sequence[Generation], connection: Connection
    ) -> None:
        held: list[bytes] = []
        send = connection.send

        async def keep(data: bytes) -> None:
            held.append(data)
            if self.full(len(held), asked.max_tokens):
                await send(b"".join(held))
                held.clear()

        connection.send = keep  # type: ignore[method-assign]
        finish, connection.finish = connection.finish, lambda: None  # type: ignore[method-assign]
        await super().streamed(asked, name, created, generations, connection)
        connection.send, connection.finish = send, finish  # type: ignore[method-assign]
        await connection.send(b"".join(held))
        connection.finish()


@defect("groups-of-chunks", "Chunks come in four groups.", f"{DELIVERY}chunks_arrive_over_time", alone=True)
class GroupsOfChunks(Held):
    def full(self, held: int, total: int) -> bool:
        return held >= max(total // 4, 1)


@defect(
    "late-beyond-eight-streams",
    "Of more than eight streams, the others come in one burst.",
    f"{DELIVERY}concurrent_chunks_arrive_over_time",
    alone=True,
)
class LateBeyondEightStreams(Held):
    def full(self, held: int, total: int) -> bool:  # noqa: ARG002
        return self.counts["running"] <= 8


@defect(
    "the-end-of-a-call-is-lost",
    "The last piece of a call's arguments gets lost.",
    f"{PIECES}the_pieces_of_a_call_make_the_whole_call",
)
class TheEndOfACallIsLost(Double):
    def delta(self, asked: Asked, generation: Generation, text: str, *, first: bool) -> Json:
        cut = asked.call and generation.finish_reason
        return super().delta(asked, generation, "" if cut else text, first=first)


@defect("calls-with-another-index", "The only call has index 1.", f"{PIECES}the_first_piece_of_a_call_says_which")
class CallsWithAnotherIndex(Double):
    def delta(self, asked: Asked, generation: Generation, text: str, *, first: bool) -> Json:
        said = super().delta(asked, generation, text, first=first)
        return {"tool_calls": [{**call, "index": 1} for call in said["tool_calls"]]} if asked.call else said


@defect("calls-change-their-id", "Each piece of a call has its own id.", f"{PIECES}the_first_piece_of_a_call_says_which")
class CallsChangeTheirId(Double):
    def delta(self, asked: Asked, generation: Generation, text: str, *, first: bool) -> Json:
        said = super().delta(asked, generation, text, first=first)
        return {"tool_calls": [{**call, "id": f"call-{self.number()}"} for call in said["tool_calls"]]} if asked.call else said


@defect(
    "stop-string-in-pieces",
    "A stream shows the stop string character by character.",
    f"{SAMENESS}a_stop_string_is_never_shown",
)
class StopStringInPieces(Double):
    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        for chunk in super().piece(asked, head, generation, pieces):
            for letter in generation.stop_reason if isinstance(generation.stop_reason, str) else "":
                said: Json = {"delta": {"content": letter}} if asked.chat else {"text": letter}
                yield {**head, "choices": [{"index": generation.index, **said, "finish_reason": None}]}
            yield chunk


@defect("stop-ignored-in-streams", "Streams go on after a stop string.", f"{SAMENESS}a_stop_string_is_never_shown")
class StopIgnoredInStreams(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        return super().asked({**body, "stop": None} if body.get("stream") else body, chat=chat)


@defect(
    "long-chunks-are-cut", "Chunks of several characters lose the last one.", f"{SAMENESS}a_greedy_stream_is_the_greedy_answer"
)
class LongChunksAreCut(Double):
    def delta(self, asked: Asked, generation: Generation, text: str, *, first: bool) -> Json:
        return super().delta(asked, generation, text[:-1] if len(text) > 1 else text, first=first)


@defect(
    "choices-exchange-tokens",
    "With two choices, a chunk of one goes to the other.",
    f"{SAMENESS}each_choice_of_a_stream_is_that_of_the_answer",
)
class ChoicesExchangeTokens(Double):
    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        # The fourth token, however many tokens a busy machine puts into one chunk.
        holds_the_fourth = len(generation.tokens) - len(pieces) < 4 <= len(generation.tokens)
        for chunk in super().piece(asked, head, generation, pieces):
            if asked.n > 1 and holds_the_fourth:
                chunk["choices"][0]["index"] = 1 - generation.index
            yield chunk


@defect("characters-cut-in-half", "Only the first byte of some characters comes.", f"{TEXT}a_stream_is_valid_utf8")
class CharactersCutInHalf(Double):
    def event(self, chunk: Json | str) -> bytes:
        return super().event(chunk).replace("\ufffd".encode(), "\ufffd".encode()[:1])


@defect(
    "compression-holds-back",
    "Streams are held back until the end for clients that accept gzip.",
    f"{DELIVERY}chunks_arrive_over_time_when_compression_is_offered",
    alone=True,
)
class CompressionHoldsBack(Compressed):
    flushed = False
