"""Answers are wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from doubles.grpc_defects.catalogue import defect
from doubles.grpc_double import CODES, GrpcDouble, Refused


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


@defect(
    "grpc-greedy-is-sampled",
    "test_generation.py::test_a_greedy_answer_is_repeated",
    "test_generation.py::test_the_likeliest_token_alone_is_greedy",
)
class GreedyIsSampled(GreedyVaries):
    """Answers at temperature 0 have tokens that are not the likeliest, and their log probabilities say so."""

    def logprobs(self, request: Any, tokens: Sequence[int]) -> Any:  # noqa: ARG002
        tops = [{"values": [-0.1], "token_ids": [7]}] * len(tokens)
        return {"output_logprobs": {"token_ids": tokens, "token_logprobs": [-2.5] * len(tokens), "top_logprobs": tops}}


@defect("grpc-seed-ignored", "test_generation.py::test_a_seed_repeats_an_answer")
class SeedIgnored(GrpcDouble):
    """The seed is ignored."""

    def seed(self, request: Any, index: int) -> int:
        return time.monotonic_ns() if request.sampling_params.HasField("seed") else super().seed(request, index)


@defect("grpc-top-k-ignored", "test_generation.py::test_the_likeliest_token_alone_is_greedy")
class TopKIgnored(GrpcDouble):
    """`top_k` is ignored."""

    def answer(self, request: Any, context: Any, stop: threading.Event) -> Iterator[Any]:
        request.sampling_params.top_k = 0
        yield from super().answer(request, context, stop)


@defect(
    "grpc-bias-ignored",
    "test_generation.py::test_a_bias_forces_a_token[whole]",
    "test_generation.py::test_a_bias_forces_a_token[streamed]",
)
class BiasIgnored(GrpcDouble):
    """`logit_bias` is ignored."""

    def answer(self, request: Any, context: Any, stop: threading.Event) -> Iterator[Any]:
        request.sampling_params.ClearField("logit_bias")
        yield from super().answer(request, context, stop)


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
