"""gRPC servers that are wrong in one way each, and the cases that have to name it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from doubles.grpc_double import CODES, HEALTH, NOT_SERVING, SERVING, GrpcDouble, Refused
from doubles.grpc_messages import ENGINE, message


@dataclass(frozen=True, kw_only=True)
class GrpcDefect:
    """A server that is wrong in one way.

    Attributes:
        name: Short and stable.
        what: What is wrong, in one sentence.
        make: The double that has it.
        named: Cases that have to fail, as ``file::case``; one without parameters in brackets stands for any.
    """

    name: str
    what: str
    make: type[GrpcDouble]
    named: tuple[str, ...]


DEFECTS: dict[str, GrpcDefect] = {}


def defect(name: str, *named: str) -> Callable[[type[GrpcDouble]], type[GrpcDouble]]:
    """Put a double into the catalogue; its docstring says what is wrong."""

    def keep(make: type[GrpcDouble]) -> type[GrpcDouble]:
        assert name not in DEFECTS, f"two defects are called {name}"
        DEFECTS[name] = GrpcDefect(name=name, what=(make.__doc__ or "").strip(), make=make, named=named)
        return make

    return keep


# Health


@defect("grpc-not-serving", "test_health.py::test_the_server_says_that_it_serves")
class NotServing(GrpcDouble):
    """Health of the whole server is NOT_SERVING while it serves."""

    def health(self, service: str) -> int | None:
        return int(NOT_SERVING) if not service else super().health(service)


@defect("grpc-engine-not-serving", "test_health.py::test_the_service_of_the_engine_says_that_it_serves")
class EngineNotServing(GrpcDouble):
    """Health of the engine's service is NOT_SERVING while it serves."""

    def health(self, service: str) -> int | None:
        return int(NOT_SERVING) if service == ENGINE else super().health(service)


@defect("grpc-everything-serves", "test_health.py::test_an_unknown_service_is_not_found")
class EverythingServes(GrpcDouble):
    """Health of a service that does not exist is SERVING."""

    def health(self, service: str) -> int | None:  # noqa: ARG002
        return int(SERVING)


@defect("grpc-unknown-health-is-an-error", "test_health.py::test_an_unknown_service_is_not_found")
class UnknownHealthIsAnError(GrpcDouble):
    """Health of a service that does not exist ends with INTERNAL."""

    def check(self, request: Any, context: Any) -> Any:
        if self.health(request.service) is None:
            context.abort(CODES.INTERNAL, "no such service")
        return super().check(request, context)


@defect(
    "grpc-no-health",
    "test_health.py::test_the_server_says_that_it_serves",
    "test_health.py::test_the_service_of_the_engine_says_that_it_serves",
)
class NoHealth(GrpcDouble):
    """The health service is not there."""

    def check(self, _request: Any, context: Any) -> Any:
        context.abort(CODES.UNIMPLEMENTED, "Method not found!")


@defect("grpc-silent-watch", "test_health.py::test_the_stream_of_health_begins_with_the_status")
class SilentWatch(GrpcDouble):
    """The stream of health ends without a status."""

    def watch(self, _request: Any, _context: Any) -> Iterator[Any]:
        yield from ()


@defect("grpc-watch-lies", "test_health.py::test_the_stream_of_health_begins_with_the_status")
class WatchLies(GrpcDouble):
    """The stream of health begins with NOT_SERVING while the server serves."""

    def watch(self, _request: Any, _context: Any) -> Iterator[Any]:
        yield health_pb2.HealthCheckResponse(status=NOT_SERVING)


@defect("grpc-unhealthy", "test_health.py::test_the_engine_says_that_it_is_healthy")
class Unhealthy(GrpcDouble):
    """HealthCheck says that the engine is not healthy while it serves."""

    def health_check(self, _request: Any, _context: Any) -> Any:
        return message("HealthCheckResponse")(healthy=False, message="Engine is not alive")


# What it says of itself


@defect("grpc-model-without-context", "test_facts.py::test_the_model_is_described")
class ModelWithoutContext(GrpcDouble):
    """GetModelInfo has no length of the context."""

    def get_model_info(self, request: Any, context: Any) -> Any:
        found = super().get_model_info(request, context)
        found.max_context_length = 0
        return found


@defect("grpc-model-without-name", "test_facts.py::test_the_model_is_described")
class ModelWithoutName(GrpcDouble):
    """GetModelInfo names no model."""

    def get_model_info(self, request: Any, context: Any) -> Any:
        found = super().get_model_info(request, context)
        found.served_model_name = found.model_path = ""
        return found


@defect("grpc-paused", "test_facts.py::test_the_server_is_described")
class Paused(GrpcDouble):
    """GetServerInfo says that the server is paused while it serves."""

    def get_server_info(self, _request: Any, _context: Any) -> Any:
        return message("GetServerInfoResponse")(is_paused=True)


@defect("grpc-load-above-one", "test_facts.py::test_the_load_is_plausible")
class LoadAboveOne(GrpcDouble):
    """GetLoads says that more than the whole KV cache is in use."""

    def get_loads(self, request: Any, context: Any) -> Any:
        found = super().get_loads(request, context)
        found.loads[0].token_usage = 37.0
        return found


@defect("grpc-no-load", "test_facts.py::test_the_load_is_plausible")
class NoLoad(GrpcDouble):
    """GetLoads is answered without an entry."""

    def get_loads(self, _request: Any, _context: Any) -> Any:
        return message("GetLoadsResponse")(version=self.version)


@defect("grpc-reflection-lacks-health", "test_facts.py::test_reflection_lists_what_is_served")
class ReflectionLacksHealth(GrpcDouble):
    """Reflection does not list the health service, which is served."""

    services = (ENGINE,)


@defect("grpc-tokenizer-cut", "test_facts.py::test_the_tokenizer_can_be_fetched_whole")
class TokenizerCut(GrpcDouble):
    """The archive of the tokenizer lacks its beginning."""

    def get_tokenizer(self, request: Any, context: Any) -> Iterator[Any]:
        yield list(super().get_tokenizer(request, context))[-1]


@defect("grpc-tokenizer-empty", "test_facts.py::test_the_tokenizer_can_be_fetched_whole")
class TokenizerEmpty(GrpcDouble):
    """GetTokenizer is answered with nothing."""

    def get_tokenizer(self, _request: Any, _context: Any) -> Iterator[Any]:
        yield from ()


# Generation


@defect("grpc-whole-in-pieces", "test_generation.py::test_an_answer_without_streaming_is_one_message")
class WholeInPieces(GrpcDouble):
    """An answer without streaming comes with pieces of a stream."""

    def told(self, request: Any, index: int, tokens: list[int], reason: str) -> Iterator[Any]:
        if not request.stream:
            yield self.chunk(request, index, tokens[-1:])
        yield from super().told(request, index, tokens, reason)


@defect("grpc-other-messages", "test_generation.py::test_an_answer_without_streaming_is_one_message")
class OtherMessages(GrpcDouble):
    """Empty messages come between the others."""

    def told(self, request: Any, index: int, tokens: list[int], reason: str) -> Iterator[Any]:
        yield self.response()
        yield from super().told(request, index, tokens, reason)


@defect("grpc-one-token-less", "test_generation.py::test_max_tokens_is_kept")
class OneTokenLess(GrpcDouble):
    """An answer ends one token before its limit."""

    def lasts(self, request: Any) -> int:
        return max(super().lasts(request) - 1, 1)


@defect("grpc-one-token-more", "test_generation.py::test_max_tokens_is_kept")
class OneTokenMore(GrpcDouble):
    """An answer has one token more than allowed."""

    def lasts(self, request: Any) -> int:
        return super().lasts(request) + 1


@defect("grpc-reason-is-stop", "test_generation.py::test_max_tokens_is_kept")
class ReasonIsStop(GrpcDouble):
    """The finish reason is always `stop`."""

    def complete(self, request: Any, index: int, tokens: Sequence[int], reason: str) -> Any:
        return super().complete(request, index, tokens, "stop" if reason == "length" else reason)


@defect("grpc-no-reason", "test_generation.py::test_max_tokens_is_kept")
class NoReason(GrpcDouble):
    """There is no finish reason."""

    def complete(self, request: Any, index: int, tokens: Sequence[int], reason: str) -> Any:
        found = super().complete(request, index, tokens, reason)
        found.complete.finish_reason = ""
        return found


@defect(
    "grpc-miscounted",
    "test_generation.py::test_tokens_are_counted[whole]",
    "test_generation.py::test_tokens_are_counted[streamed]",
)
class Miscounted(GrpcDouble):
    """`completion_tokens` is wrong by one."""

    def response(self, **kind: Any) -> Any:
        for each in kind.values():
            each["completion_tokens"] += 1
        return super().response(**kind)


@defect("grpc-prompt-miscounted", "test_generation.py::test_the_prompt_is_counted[1-whole]")
class PromptMiscounted(GrpcDouble):
    """`prompt_tokens` counts a token that was not sent."""

    def response(self, **kind: Any) -> Any:
        for each in kind.values():
            each["prompt_tokens"] += 1
        return super().response(**kind)


@defect("grpc-beyond-the-vocabulary", "test_generation.py::test_tokens_are_of_the_vocabulary")
class BeyondTheVocabulary(GrpcDouble):
    """Token ids are larger than the vocabulary."""

    def token(self, ids: Sequence[int], place: int, seed: int = 0) -> int:
        return super().token(ids, place, seed) + self.vocabulary


@defect("grpc-greedy-varies", "test_generation.py::test_a_greedy_answer_is_repeated")
class GreedyVaries(GrpcDouble):
    """Answers at temperature 0 differ each time."""

    def seed(self, request: Any, index: int) -> int:  # noqa: ARG002
        return time.monotonic_ns()


@defect("grpc-seed-ignored", "test_generation.py::test_a_seed_repeats_an_answer")
class SeedIgnored(GrpcDouble):
    """The seed is ignored."""

    def seed(self, request: Any, index: int) -> int:
        return time.monotonic_ns() if request.sampling_params.HasField("seed") else super().seed(request, index)


@defect(
    "grpc-stop-ignored",
    "test_generation.py::test_a_stop_token_ends_an_answer[whole]",
    "test_generation.py::test_a_stop_token_ends_an_answer[streamed]",
)
class StopIgnored(GrpcDouble):
    """Stop tokens are ignored."""

    def answer(self, request: Any, context: Any, stop: threading.Event) -> Iterator[Any]:
        request.sampling_params.ClearField("stop_token_ids")
        yield from super().answer(request, context, stop)


@defect("grpc-wrong-stop", "test_generation.py::test_a_stop_token_ends_an_answer")
class WrongStop(GrpcDouble):
    """The end names another stop token than the one that came."""

    def complete(self, request: Any, index: int, tokens: Sequence[int], reason: str) -> Any:
        found = super().complete(request, index, tokens, reason)
        if reason == "stop":
            found.complete.matched_token_id += 1
        return found


@defect("grpc-one-choice", "test_generation.py::test_choices_are_told_apart[whole]")
class OneChoice(GrpcDouble):
    """`n` is ignored."""

    def answer(self, request: Any, context: Any, stop: threading.Event) -> Iterator[Any]:
        request.sampling_params.n = 1
        yield from super().answer(request, context, stop)


@defect("grpc-choices-without-index", "test_generation.py::test_choices_are_told_apart[streamed]")
class ChoicesWithoutIndex(GrpcDouble):
    """All choices have the index 0."""

    def response(self, **kind: Any) -> Any:
        return super().response(**{name: {**each, "index": 0} for name, each in kind.items()})


@defect("grpc-logprobs-of-others", "test_generation.py::test_log_probabilities_belong_to_the_tokens[whole]")
class LogprobsOfOthers(GrpcDouble):
    """Log probabilities are of other tokens."""

    def logprobs(self, request: Any, tokens: Sequence[int]) -> Any:
        return super().logprobs(request, [token + 1 for token in tokens])


@defect("grpc-logprobs-only-whole", "test_generation.py::test_log_probabilities_belong_to_the_tokens[streamed]")
class LogprobsOnlyWhole(GrpcDouble):
    """Streams have no log probabilities."""

    def logprobs(self, request: Any, tokens: Sequence[int]) -> Any:
        return {} if request.stream else super().logprobs(request, tokens)


@defect("grpc-probabilities", "test_generation.py::test_log_probabilities_belong_to_the_tokens")
class Probabilities(GrpcDouble):
    """Log probabilities are above 0."""

    def logprobs(self, request: Any, tokens: Sequence[int]) -> Any:  # noqa: ARG002
        return {"output_logprobs": {"token_ids": tokens, "token_logprobs": [0.6] * len(tokens)}}


@defect("grpc-text-breaks", "test_generation.py::test_text_is_answered_or_refused")
class TextBreaks(GrpcDouble):
    """A prompt of text ends with an error of the server."""

    def check_request(self, request: Any) -> None:
        if request.WhichOneof("input") == "text":
            raise Refused("'NoneType' object has no attribute 'encode'", CODES.INTERNAL)
        super().check_request(request)


# Streams


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


# Errors


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


# Deadlines


@defect(
    "grpc-goes-on-without-clients",
    "test_deadlines.py::test_a_deadline_ends_the_request[whole]",
    "test_deadlines.py::test_a_deadline_ends_the_request[streamed]",
    "test_deadlines.py::test_a_cancelled_stream_is_ended",
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


@defect("grpc-deadlines-look-whole", "test_deadlines.py::test_a_deadline_ends_the_request")
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


@defect("grpc-deadlines-break-health", "test_deadlines.py::test_an_expired_deadline_harms_nobody")
class DeadlinesBreakHealth(GrpcDouble):
    """After deadlines the server says that it does not serve."""

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
