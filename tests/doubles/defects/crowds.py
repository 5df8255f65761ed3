"""Defects of many streams at once, of clients that leave, and of streams that are refused."""

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
from doubles.server import IN_COMPANY_S, Double
from doubles.wire import Connection, Request, Response

MANY = "streaming/test_many.py::test_"
DISCONNECT = "streaming/test_disconnect.py::test_"
ERRORS = "streaming/test_errors.py::test_"


@defect(
    "streams-are-swapped",
    "Streams that begin together get each other's prompt.",
    f"{MANY}concurrent_streams_answer_their_own_question",
)
class StreamsAreSwapped(Double):
    token_s = IN_COMPANY_S

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
            raise RefusedError("no slot is free", status=503, kind="ServiceUnavailableError")
        async with super().slot():
            yield


@defect(
    "lengths-are-mixed", "Concurrent streams end where their neighbour's would.", f"{MANY}concurrent_streams_are_kept_apart"
)
class LengthsAreMixed(Double):
    token_s = IN_COMPANY_S

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
    token_s = IN_COMPANY_S

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.streams = 0

    def asked(self, body: Json, *, chat: bool) -> Asked:
        self.streams += bool(body.get("stream"))
        many = self.streams and self.counts["running"] > 2
        return super().asked({**body, "stream": True} if many else body, chat=chat)


@defect(
    "slots-leak",
    "A client that hangs up leaves its slot taken.",
    f"{DISCONNECT}a_client_that_hangs_up_frees_its_slot",
    alone=True,
)
class SlotsLeak(Double):
    def leaked(self) -> int:
        """Slots that stay taken by one client that hung up."""
        return 1

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        try:
            async with super().slot():
                yield
        except asyncio.CancelledError:
            self.counts["running"] += self.leaked()
            raise


@defect(
    "works-for-nobody",
    "An answer is made to its end although its client has gone.",
    f"{DISCONNECT}a_client_that_hangs_up_frees_its_slot",
    alone=True,
)
class WorksForNobody(Double):
    # An answer takes 20 s, far longer than the case waits: on a busy machine a double catches up with late tokens, and could
    # otherwise complete the answer before it notices that its client has gone, which the case reports as inconclusive.
    token_s = 0.01

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


@defect(
    "streams-are-too-many",
    "Every request for a stream is answered 429, however long the client waits.",
    *(f"streaming/test_structure.py::test_arrives_whole[{surface}]" for surface in ("chat", "completions")),
    alone=True,
)
class StreamsAreTooMany(Double):
    async def completed(self, asked: Asked, body: Json, connection: Connection) -> Response | None:
        if asked.stream:
            return self.error(429, "Too many requests", "requests")
        return await super().completed(asked, body, connection)


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


@defect(
    "every-tenth-slot-leaks",
    "Now and then a client that hangs up leaves its slot taken.",
    f"{DISCONNECT}many_clients_that_hang_up_leave_nothing_behind",
    alone=True,
)
class EveryTenthSlotLeaks(SlotsLeak):
    def leaked(self) -> int:
        return int(self.number() % 10 == 0)


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


class Crowded(Double):
    """Wrong only while more than eight streams run."""

    token_s = IN_COMPANY_S

    def changed(self, generation: Generation, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """The tokens that are sent instead."""
        raise NotImplementedError

    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        crowded = self.counts["running"] > 8 and asked.stream
        return super().piece(asked, head, generation, self.changed(generation, pieces) if crowded else pieces)


@defect(
    "first-token-twice-in-crowds",
    "While more than eight streams run, the first token comes twice.",
    f"{MANY}concurrent_streams_lose_and_repeat_no_token",
)
class FirstTokenTwiceInCrowds(Crowded):
    def changed(self, generation: Generation, pieces: Sequence[Piece]) -> Sequence[Piece]:
        return [pieces[0], *pieces] if len(generation.tokens) == len(pieces) else pieces


@defect(
    "a-token-lost-in-crowds",
    "While more than eight streams run, the third token is lost.",
    f"{MANY}concurrent_streams_lose_and_repeat_no_token",
)
class ATokenLostInCrowds(Crowded):
    def changed(self, generation: Generation, pieces: Sequence[Piece]) -> Sequence[Piece]:
        begun = len(generation.tokens) - len(pieces)
        return [piece for at, piece in enumerate(pieces) if begun + at != 2]


@defect(
    "a-foreign-chunk-in-crowds",
    "While more than four streams run, one gets a chunk with the id of another.",
    f"{MANY}concurrent_streams_are_kept_apart",
)
class AForeignChunkInCrowds(Double):
    token_s = IN_COMPANY_S

    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        foreign = self.counts["running"] > 4 and 4 < len(generation.tokens) < 9
        return super().piece(asked, {**head, "id": "another"} if foreign else head, generation, pieces)


@defect(
    "errors-in-html",
    "A stream is refused with a page for browsers.",
    f"{ERRORS}a_bad_request_is_refused_before_the_stream",
)
class ErrorsInHtml(Double):
    async def routed(self, request: Request, connection: Connection) -> Response | None:
        try:
            return await super().routed(request, connection)
        except RefusedError as error:
            if b'"stream": true' not in request.body:
                raise
            return Response(status=error.status, body=b"<html>Bad Request</html>", headers={"content-type": "text/html"})


@defect(
    "status-of-a-refusal-is-200",
    "A stream that is refused is answered with an error object and status 200.",
    f"{ERRORS}a_bad_request_is_refused_before_the_stream",
)
class StatusOfARefusalIs200(Double):
    async def routed(self, request: Request, connection: Connection) -> Response | None:
        try:
            return await super().routed(request, connection)
        except RefusedError as error:
            if b'"stream": true' not in request.body:
                raise
            return Response(
                body=json.dumps({"error": {"message": error.message}}).encode(), headers={"content-type": "application/json"}
            )


@defect(
    "a-second-request-interrupts",
    "A stream ends early when another request comes, as llama-cpp-python does by default.",
    f"{MANY}concurrent_streams_are_kept_apart",
    f"{MANY}more_streams_than_slots_all_come_to_their_end",
)
class ASecondRequestInterrupts(Double):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.latest: Connection | None = None

    async def streamed(
        self, asked: Asked, name: str, created: int, generations: Sequence[Generation], connection: Connection
    ) -> None:
        self.latest, send = connection, connection.send

        async def unless_interrupted(data: bytes) -> None:
            if self.latest in (connection, None):
                await send(data)

        connection.send = unless_interrupted  # type: ignore[method-assign]
        try:
            await super().streamed(asked, name, created, generations, connection)
        finally:
            connection.send = send  # type: ignore[method-assign]
