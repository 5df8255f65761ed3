"""Mistakes of clients are handled wrongly."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import grpc

from doubles.grpc_defects.catalogue import defect
from doubles.grpc_double import CODES, HEALTH, GrpcDouble, Refused
from doubles.grpc_messages import ENGINE


@defect("grpc-mistakes-are-internal", "test_errors.py::test_an_invalid_request_is_refused[an empty prompt-streamed]")
class MistakesAreInternal(GrpcDouble):
    """Invalid requests end with INTERNAL."""

    def check_request(self, request: Any) -> None:
        try:
            super().check_request(request)
        except Refused as error:
            raise Refused(str(error), CODES.INTERNAL) from error


@defect("grpc-mistakes-are-exceptions", "test_errors.py::test_an_invalid_request_is_refused[an empty prompt-streamed]")
class MistakesAreExceptions(GrpcDouble):
    """Invalid requests end with UNKNOWN, as exceptions that nobody handles."""

    def generate(self, request: Any, context: Any) -> Iterator[Any]:
        try:
            self.check_request(request)
        except Refused as error:
            raise RuntimeError(str(error)) from None
        yield from super().generate(request, context)


@defect("grpc-everything-is-served", "test_errors.py::test_an_invalid_request_is_refused[min_tokens above max_tokens-whole]")
class EverythingIsServed(GrpcDouble):
    """Invalid values are ignored."""

    def check_request(self, request: Any) -> None:
        """Nothing is refused."""


@defect("grpc-errors-show-code", "test_errors.py::test_an_invalid_request_is_refused[an empty prompt-streamed]")
class ErrorsShowCode(GrpcDouble):
    """Errors show a stack trace."""

    def check_request(self, request: Any) -> None:
        try:
            super().check_request(request)
        except Refused as error:
            raise Refused(f'Traceback (most recent call last):\n  File "/srv/engine.py", line 7\n{error}') from error


@defect("grpc-errors-say-nothing", "test_errors.py::test_an_invalid_request_is_refused[an empty prompt-streamed]")
class ErrorsSayNothing(GrpcDouble):
    """Errors have no message."""

    def check_request(self, request: Any) -> None:
        try:
            super().check_request(request)
        except Refused as error:
            raise Refused("") from error


@defect("grpc-mistakes-hang", "test_errors.py::test_an_invalid_request_is_refused[an invalid regex-whole]")
class MistakesHang(GrpcDouble):
    """A constraint that is not valid is never answered."""

    def check_request(self, request: Any) -> None:
        if request.sampling_params.WhichOneof("constraint"):
            time.sleep(2.5)
        super().check_request(request)


@defect("grpc-mistakes-kill", "test_errors.py::test_an_invalid_request_is_refused[an invalid grammar-whole]")
class MistakesKill(GrpcDouble):
    """A grammar that is not valid ends the server."""

    def check_request(self, request: Any) -> None:
        if request.sampling_params.grammar:
            self.server.stop(grace=0).wait(1)
        super().check_request(request)


@defect("grpc-long-prompts-are-cut", "test_errors.py::test_a_prompt_longer_than_the_context_is_refused")
class LongPromptsAreCut(GrpcDouble):
    """A prompt that is longer than the context is cut without a word."""

    def check_request(self, request: Any) -> None:
        del request.tokenized.input_ids[self.context - 20 :]
        super().check_request(request)


class _Everything(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers methods that do not exist."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def service(self, handler_call_details: Any) -> Any:
        known = handler_call_details.method.startswith(("/grpc.reflection", f"/{HEALTH}"))
        return None if known else self._handler


@defect(
    "grpc-unknown-methods-are-answered",
    "test_errors.py::test_an_unknown_method_is_not_implemented",
    "test_errors.py::test_an_unknown_service_is_not_implemented",
)
class UnknownMethodsAreAnswered(GrpcDouble):
    """Methods that do not exist are answered with OK."""

    def handlers(self) -> Iterator[Any]:
        yield from super().handlers()
        yield _Everything(grpc.unary_unary_rpc_method_handler(lambda _request, _context: b""))


@defect("grpc-garbage-is-answered", "test_errors.py::test_a_message_that_is_none_is_refused[GetModelInfo]")
class GarbageIsAnswered(GrpcDouble):
    """Bytes that are no message are answered with OK."""

    def handlers(self) -> Iterator[Any]:
        info = grpc.unary_unary_rpc_method_handler(
            lambda request, context: self.get_model_info(request, context).SerializeToString()
        )
        yield grpc.method_handlers_generic_handler(ENGINE, {"GetModelInfo": info})
        yield from super().handlers()


@defect("grpc-embeddings-break", "test_errors.py::test_embeddings_of_a_model_without_them_are_refused")
class EmbeddingsBreak(GrpcDouble):
    """Embeddings of a model without them end with an error of the server."""

    def embed(self, _request: Any, context: Any) -> Any:
        context.abort(CODES.INTERNAL, "'AsyncLLM' object has no attribute 'encode'")


@defect("grpc-errors-end-others", "test_errors.py::test_an_error_does_not_touch_other_streams")
class ErrorsEndOthers(GrpcDouble):
    """A refused request ends all that run."""

    def check_request(self, request: Any) -> None:
        try:
            super().check_request(request)
        except Refused:
            for stop in list(self.running.values()):
                stop.set()
            raise
