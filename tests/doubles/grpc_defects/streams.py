"""Streams are wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

from doubles.grpc_defects.catalogue import defect
from doubles.grpc_double import CODES, NOT_SERVING, GrpcDouble, Refused


@defect("grpc-stream-loses-a-token", "test_streams.py::test_a_stream_has_the_tokens_of_an_answer_without_streaming")
class StreamLosesAToken(GrpcDouble):
    """A stream lacks one of its tokens."""

    def told(self, request: Any, index: int, tokens: list[int], reason: str) -> Iterator[Any]:
        if not request.stream or len(tokens) != 7:
            yield from super().told(request, index, tokens, reason)


@defect("grpc-stream-is-other", "test_streams.py::test_a_stream_has_the_tokens_of_an_answer_without_streaming")
class StreamIsOther(GrpcDouble):
    """A stream has other tokens than the answer without streaming."""

    def seed(self, request: Any, index: int) -> int:
        return 7 if request.stream else super().seed(request, index)


@defect("grpc-ends-twice", "test_streams.py::test_a_stream_ends_with_its_finish_reason")
class EndsTwice(GrpcDouble):
    """A stream ends twice."""

    def told(self, request: Any, index: int, tokens: list[int], reason: str) -> Iterator[Any]:
        yield from super().told(request, index, tokens, reason)
        if reason and request.stream:
            yield self.complete(request, index, tokens[-1:], reason)


@defect("grpc-goes-on-after-its-end", "test_streams.py::test_a_stream_ends_with_its_finish_reason")
class GoesOnAfterItsEnd(GrpcDouble):
    """The last piece of a stream comes after its end."""

    def told(self, request: Any, index: int, tokens: list[int], reason: str) -> Iterator[Any]:
        yield from reversed(list(super().told(request, index, tokens, reason)))


@defect("grpc-no-end", "test_streams.py::test_a_stream_ends_with_its_finish_reason")
class NoEnd(GrpcDouble):
    """A stream ends with OK, but without a message that says so."""

    def told(self, request: Any, index: int, tokens: list[int], reason: str) -> Iterator[Any]:
        yield from super().told(request, index, tokens, "" if request.stream else reason)


@defect("grpc-end-has-other-tokens", "test_streams.py::test_a_stream_ends_with_its_finish_reason")
class EndHasOtherTokens(GrpcDouble):
    """The end of a stream repeats tokens that did not come last."""

    def complete(self, request: Any, index: int, tokens: Sequence[int], reason: str) -> Any:
        return super().complete(request, index, [token + 1 for token in tokens] if request.stream else tokens, reason)


@defect("grpc-held-back", "test_streams.py::test_a_stream_arrives_in_pieces")
class HeldBack(GrpcDouble):
    """All pieces of a stream come at its end."""

    token_s = 0.01

    def answer(self, request: Any, context: Any, stop: threading.Event) -> Iterator[Any]:
        yield from list(super().answer(request, context, stop))


@defect("grpc-one-piece", "test_streams.py::test_a_stream_arrives_in_pieces")
class OnePiece(GrpcDouble):
    """A stream has one piece with all tokens."""

    def told(self, request: Any, index: int, tokens: list[int], reason: str) -> Iterator[Any]:
        if reason and request.stream:
            yield self.chunk(request, index, tokens)
        if reason:
            yield self.complete(request, index, tokens, reason)


@defect("grpc-streams-mixed-up", "test_streams.py::test_concurrent_streams_have_their_own_tokens")
class StreamsMixedUp(GrpcDouble):
    """A stream gets the tokens of another one that runs at the same time."""

    latest: Sequence[int] = ()

    def ids(self, request: Any) -> list[int]:
        mine = super().ids(request)
        if len(self.running) < 2:
            self.latest = mine
        return list(self.latest)


@defect("grpc-names-mixed-up", "test_streams.py::test_requests_with_one_name_are_kept_apart")
class NamesMixedUp(GrpcDouble):
    """Two requests with one name get the tokens of one of them."""

    def ids(self, request: Any) -> list[int]:
        prompts = vars(self).setdefault("prompts", {})
        prompts.setdefault(request.request_id, super().ids(request))
        return list(prompts[request.request_id])


@defect("grpc-names-refused-as-an-error", "test_streams.py::test_requests_with_one_name_are_kept_apart")
class NamesRefusedAsAnError(GrpcDouble):
    """The second of two requests with one name ends with an error of the server."""

    def check_request(self, request: Any) -> None:
        if (other := self.aborted.get(request.request_id)) is not None and other in self.running:
            raise Refused(f"KeyError: '{request.request_id}'", CODES.INTERNAL)
        super().check_request(request)


@defect("grpc-loses-tokens-under-load", "test_streams.py::test_concurrent_streams_have_their_own_tokens")
class LosesTokensUnderLoad(GrpcDouble):
    """Streams lack tokens when several run."""

    def told(self, request: Any, index: int, tokens: list[int], reason: str) -> Iterator[Any]:
        if reason or len(self.running) < 4 or len(tokens) % 5:
            yield from super().told(request, index, tokens, reason)


@defect("grpc-health-waits-for-streams", "test_streams.py::test_health_is_answered_during_streams")
class HealthWaitsForStreams(GrpcDouble):
    """Health says NOT_SERVING while streams run."""

    def health(self, service: str) -> int | None:
        return int(NOT_SERVING) if self.running else super().health(service)
