"""Requests that get what belongs to another one that runs at the same time, and requests that outlive their clients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from doubles.asked import Asked
from doubles.bodies import Json
from doubles.defects.catalogue import defect
from doubles.defects.crowds import WorksForNobody
from doubles.server import IN_COMPANY_S, Double
from doubles.wire import Connection, Request, Response

CONSTRAINTS = "integration/test_constraints.py::test_"


class Neighbours(Double):
    """A request gets a part of the one before, if that one still runs."""

    token_s = IN_COMPANY_S

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.last: Asked | None = None

    def has_it(self, asked: Asked) -> bool:
        """Whether a request has this part."""
        raise NotImplementedError

    def mixed(self, asked: Asked, other: Asked) -> Asked:
        """The request with the part of the other one."""
        raise NotImplementedError

    async def completed(self, asked: Asked, body: Json, connection: Connection) -> Response | None:
        if self.has_it(asked):
            other, self.last = self.last, asked
            if other is not None and self.counts["running"]:
                asked = self.mixed(asked, other)
        return await super().completed(asked, body, connection)


@defect(
    "structures-of-another",
    "A request must match the structure of the one before it.",
    f"{CONSTRAINTS}concurrent_structures_are_those_of_their_requests",
    alone=True,
)
class StructuresOfAnother(Neighbours):
    def has_it(self, asked: Asked) -> bool:
        return bool(asked.forced) and not asked.stops

    def mixed(self, asked: Asked, other: Asked) -> Asked:
        return replace(asked, forced=other.forced, call=other.call)


@defect(
    "stop-strings-of-another",
    "A request ends at the stop strings of the one before it.",
    f"{CONSTRAINTS}concurrent_stop_strings_are_those_of_their_requests",
    alone=True,
)
class StopStringsOfAnother(Neighbours):
    def has_it(self, asked: Asked) -> bool:
        return bool(asked.stops)

    def mixed(self, asked: Asked, other: Asked) -> Asked:
        return replace(asked, stops=other.stops)


@defect(
    "bias-of-another",
    "A request gets the bias of the one before it.",
    f"{CONSTRAINTS}concurrent_biases_are_those_of_their_requests",
    alone=True,
)
class BiasOfAnother(Neighbours):
    def has_it(self, asked: Asked) -> bool:
        return bool(asked.sampling.bias)

    def mixed(self, asked: Asked, other: Asked) -> Asked:
        return replace(asked, sampling=replace(asked.sampling, bias=other.sampling.bias))


class Named(Double):
    """Knows the requests in flight by their ``X-Request-Id``."""

    token_s = IN_COMPANY_S

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.known_as: dict[str, Asked] = {}
        self.name = ""

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        self.name = request.headers.get("x-request-id", "")
        return await super().routed(request, connection)

    def renamed(self, asked: Asked, other: Asked) -> Asked:
        """The second request with a name."""
        raise NotImplementedError

    async def completed(self, asked: Asked, body: Json, connection: Connection) -> Response | None:
        name = self.name
        if not name:
            return await super().completed(asked, body, connection)
        asked = self.renamed(asked, self.known_as[name]) if name in self.known_as else asked
        self.known_as[name] = asked
        try:
            return await super().completed(asked, body, connection)
        finally:
            self.known_as.pop(name, None)


@defect(
    "one-id-one-prompt",
    "Of two requests with one X-Request-Id, the second is answered with the prompt of the first.",
    f"{CONSTRAINTS}requests_with_one_id_are_kept_apart",
    alone=True,
)
class OneIdOnePrompt(Named):
    def renamed(self, asked: Asked, other: Asked) -> Asked:
        return replace(asked, prompts=other.prompts, texts=other.texts)


@defect(
    "one-id-crashes",
    "The second of two requests with one X-Request-Id is answered 500.",
    f"{CONSTRAINTS}requests_with_one_id_are_kept_apart",
    alone=True,
)
class OneIdCrashes(Named):
    def renamed(self, asked: Asked, other: Asked) -> Asked:
        raise KeyError(asked.model + other.model)


@defect(
    "vectors-of-another",
    "Requests for embeddings that run at the same time get the vector of the last one.",
    "integration/test_embeddings.py::test_concurrent_texts_get_their_own_vectors",
)
class VectorsOfAnother(Double):
    latest: Mapping[str, Any]

    async def posted(self, path: str, body: Json, connection: Connection) -> Response | None:
        if path == "/v1/embeddings" and isinstance(body.get("input"), str):
            self.latest = body
            await asyncio.sleep(0.03)
            body = {**body, "input": self.latest["input"]}
        return await super().posted(path, body, connection)


class GoOn(WorksForNobody):
    """Some requests go on although their client has gone."""

    def goes_on(self, asked: Asked) -> bool:
        """Whether this is one of them."""
        raise NotImplementedError

    async def completed(self, asked: Asked, body: Json, connection: Connection) -> Response | None:
        if self.goes_on(asked):
            send = connection.send

            async def tolerant(data: bytes) -> None:
                with contextlib.suppress(RuntimeError):  # the connection may be closed before this task hears of it
                    await send(data)

            connection.send = tolerant  # type: ignore[method-assign]
            return await super().completed(asked, body, connection)
        return await Double.completed(self, asked, body, connection)


@defect(
    "choices-go-on",
    "A stream of several choices is made to its end although its client has gone.",
    "streaming/test_disconnect.py::test_a_client_that_hangs_up_frees_its_slot[chat-two]",
    alone=True,
)
class ChoicesGoOn(GoOn):
    def goes_on(self, asked: Asked) -> bool:
        return asked.stream and asked.n > 1


@defect(
    "whole-answers-go-on",
    "An answer that is not streamed is made to its end although its client has gone.",
    "streaming/test_disconnect.py::test_a_client_that_does_not_wait_for_its_answer_frees_its_slot",
    alone=True,
)
class WholeAnswersGoOn(GoOn):
    def goes_on(self, asked: Asked) -> bool:
        return not asked.stream
