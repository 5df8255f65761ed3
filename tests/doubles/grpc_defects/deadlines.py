"""Requests that nobody waits for are handled wrongly."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

from doubles.grpc_defects.catalogue import defect
from doubles.grpc_double import CODES, NOT_SERVING, GrpcDouble
from doubles.grpc_messages import message


@defect(
    "grpc-goes-on-without-clients",
    "test_deadlines.py::test_the_engine_ends_what_nobody_waits_for[its deadline]",
    "test_deadlines.py::test_the_engine_ends_what_nobody_waits_for[the deadline of a stream]",
    "test_deadlines.py::test_the_engine_ends_what_nobody_waits_for[its cancellation]",
)
class GoesOnWithoutClients(GrpcDouble):
    """A request goes on after its deadline, and after its client went away."""

    def gone(self, stop: threading.Event) -> None:
        """Goes on, in the engine, which counts it until its end."""
        self.zombies = getattr(self, "zombies", 0) + 1

        def later() -> None:
            time.sleep(self.token_s * self.context)
            self.zombies -= 1

        if stop in self.running:
            threading.Thread(target=later, daemon=True).start()
        else:
            self.zombies -= 1

    def step(self) -> None:
        self.counted = len(self.running) + getattr(self, "zombies", 0)


@defect("grpc-deadlines-look-whole", "test_deadlines.py::test_a_deadline_ends_the_call")
class DeadlinesLookWhole(GrpcDouble):
    """Shortly before its deadline an answer is ended as if it were whole."""

    def answer(self, request: Any, context: Any, stop: threading.Event) -> Iterator[Any]:
        tokens: list[int] = []
        for place in range(self.lasts(request)):
            left_s = context.time_remaining()
            tokens.append(self.token(self.ids(request), place))
            self.pause(place)
            self.step()
            last = place == self.lasts(request) - 1 or (left_s is not None and left_s < 0.08) or stop.is_set()
            yield from self.told(request, 0, tokens, "length" if last else "")
            if last:
                return


@defect(
    "grpc-clients-that-leave-break-health",
    "test_deadlines.py::test_an_expired_deadline_harms_nobody",
    "test_deadlines.py::test_a_cancelled_stream_harms_nobody",
)
class ClientsThatLeaveBreakHealth(GrpcDouble):
    """After a deadline or a cancellation the server says that it does not serve."""

    expired = False

    def gone(self, stop: threading.Event) -> None:
        self.expired = self.expired or stop in self.running
        super().gone(stop)

    def health(self, service: str) -> int | None:
        return int(NOT_SERVING) if self.expired else super().health(service)


@defect("grpc-abort-does-nothing", "test_deadlines.py::test_an_abort_ends_the_stream")
class AbortDoesNothing(GrpcDouble):
    """Abort is answered, and nothing is aborted."""

    def abort(self, _request: Any, _context: Any) -> Any:
        return message("AbortResponse")()


@defect("grpc-abort-looks-whole", "test_deadlines.py::test_an_abort_ends_the_stream")
class AbortLooksWhole(GrpcDouble):
    """An aborted answer ends as if it were whole."""

    def cut(self, request: Any, made: list[list[int]]) -> Iterator[Any]:
        yield self.complete(request, 0, made[0], "length")


@defect("grpc-abort-breaks", "test_deadlines.py::test_an_abort_of_an_unknown_request_harms_nobody")
class AbortBreaks(GrpcDouble):
    """Abort of an unknown request ends with an error of the server."""

    def abort(self, request: Any, context: Any) -> Any:
        if not all(name in self.aborted for name in request.request_ids):
            context.abort(CODES.INTERNAL, f"KeyError: {request.request_ids}")
        return super().abort(request, context)


@defect("grpc-abort-ends-everything", "test_deadlines.py::test_an_abort_of_an_unknown_request_harms_nobody")
class AbortEndsEverything(GrpcDouble):
    """Abort ends all requests, whatever their names are."""

    def abort(self, _request: Any, _context: Any) -> Any:
        for stop in list(self.running.values()):
            stop.set()
        return message("AbortResponse")()
