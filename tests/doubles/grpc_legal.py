"""gRPC servers that differ from the double in ways that the protocol allows, and other versions of the service."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from doubles.grpc_double import CODES, HEALTH, GrpcDouble, Refused
from doubles.grpc_messages import ENGINE, message


class NewReflection(GrpcDouble):
    """Reflection only under its newer name, v1."""

    reflects = ("v1",)


class BothReflections(GrpcDouble):
    """Reflection under both names, and other services beside vLLM's."""

    reflects = ("v1", "v1alpha")
    services = (ENGINE, HEALTH, "grpc.reflection.v1.ServerReflection", "other.Service")


class OnlyGenerates(GrpcDouble):
    """A version with two methods only."""

    methods = ("Generate", "GetModelInfo")


class NoLoads(GrpcDouble):
    """The load is described, but not implemented."""

    def get_loads(self, _request: Any, context: Any) -> Any:
        context.abort(CODES.UNIMPLEMENTED, "not implemented")


class BlindLoads(GrpcDouble):
    """The load is always 0, as with `--disable-log-stats`."""

    def step(self) -> None:
        """Counts nothing."""


class TwoRanks(GrpcDouble):
    """Two data-parallel ranks, whose loads are those of their last steps."""

    def __init__(self) -> None:
        super().__init__()
        self.ranks: dict[threading.Event, int] = {}
        self.counts = [0, 0]

    def admitted(self, request: Any, stop: threading.Event) -> None:
        self.ranks[stop] = request.data_parallel_rank if request.HasField("data_parallel_rank") else 1

    def answer(self, request: Any, context: Any, stop: threading.Event) -> Iterator[Any]:
        for each in super().answer(request, context, stop):
            rank = self.ranks[stop]
            self.counts[rank] = sum(1 for other in list(self.running) if self.ranks.get(other) == rank)
            yield each

    def get_loads(self, _request: Any, _context: Any) -> Any:
        loads = [{"dp_rank": rank, "num_running_reqs": count} for rank, count in enumerate(self.counts)]
        return message("GetLoadsResponse")(version=self.version, dp_rank_count=2, loads=loads)


class Cumulative(GrpcDouble):
    """`completion_tokens` of a piece counts all tokens so far; the end of a stream has all tokens."""

    def told(self, request: Any, index: int, tokens: list[int], reason: str) -> Iterator[Any]:
        if request.stream:
            piece = self.chunk(request, index, tokens[-1:])
            piece.chunk.completion_tokens = len(tokens)
            yield piece
        if reason:
            yield self.complete(request, index, tokens, reason)


class SeveralTokensAPiece(GrpcDouble):
    """Pieces of up to three tokens, some of them empty."""

    def told(self, request: Any, index: int, tokens: list[int], reason: str) -> Iterator[Any]:
        if not request.stream:
            yield from super().told(request, index, tokens, reason)
            return
        left = len(tokens) % 3 or 3
        if reason or left == 3:
            yield self.chunk(request, index, tokens[-left:])
            yield self.chunk(request, index, [])
        if reason:
            yield self.complete(request, index, tokens[-left:], reason)


class StopTokenLeftOut(GrpcDouble):
    """The stop token is not part of the answer."""

    def told(self, request: Any, index: int, tokens: list[int], reason: str) -> Iterator[Any]:
        if reason != "stop":
            yield from super().told(request, index, tokens, reason)
            return
        found = self.complete(request, index, [] if request.stream else tokens[:-1], "length")
        found.complete.finish_reason, found.complete.matched_token_id = "stop", tokens[-1]
        yield found


class AbortIsAnError(GrpcDouble):
    """An aborted stream ends with CANCELLED, and an unknown name is NOT_FOUND."""

    def answer(self, request: Any, context: Any, stop: threading.Event) -> Iterator[Any]:
        for each in super().answer(request, context, stop):
            if each.WhichOneof("response") == "complete" and each.complete.finish_reason == "abort":
                context.abort(CODES.CANCELLED, "aborted")
            yield each

    def abort(self, request: Any, context: Any) -> Any:
        if not all(name in self.aborted for name in request.request_ids):
            context.abort(CODES.NOT_FOUND, "no such request")
        return super().abort(request, context)


class OtherCodes(GrpcDouble):
    """Mistakes are OUT_OF_RANGE or FAILED_PRECONDITION."""

    def check_request(self, request: Any) -> None:
        try:
            super().check_request(request)
        except Refused as error:
            raise Refused(str(error), CODES.OUT_OF_RANGE if "must" in str(error) else CODES.FAILED_PRECONDITION) from error


class NamesAreUnique(GrpcDouble):
    """The second of two requests with one name is refused."""

    def check_request(self, request: Any) -> None:
        if (other := self.aborted.get(request.request_id)) is not None and other in self.running:
            raise Refused("a request of this name is running", CODES.ALREADY_EXISTS)
        super().check_request(request)


class NoText(GrpcDouble):
    """Text is refused: the server has no tokenizer; nor has it one to be fetched."""

    def check_request(self, request: Any) -> None:
        if request.WhichOneof("input") == "text":
            raise Refused("text needs a tokenizer; send token ids")
        super().check_request(request)

    def get_tokenizer(self, _request: Any, context: Any) -> Iterator[Any]:
        context.abort(CODES.UNIMPLEMENTED, "no tokenizer")
        yield


class Rounding(GrpcDouble):
    """Greedy answers differ in their last tokens, as by rounding in batches of another size."""

    def token(self, ids: Sequence[int], place: int, seed: int = 0) -> int:
        return super().token(ids, place, seed if place < 24 else time.monotonic_ns())


class Ties(GrpcDouble):
    """Two tokens are equally likely, and either is taken, as in half precision."""

    def token(self, ids: Sequence[int], place: int, seed: int = 0) -> int:
        found = super().token(ids, place, seed)
        return found if seed or place < 2 else found ^ (time.monotonic_ns() // 1000 & 1)

    def logprobs(self, request: Any, tokens: Sequence[int]) -> Any:
        found = dict(super().logprobs(request, tokens))
        for each in found.values():
            each["top_logprobs"] = [{"values": [-0.5], "token_ids": [token ^ 1]} for token in tokens]
        return found


class HealthOfTheWhole(GrpcDouble):
    """Health speaks only for the whole server, and cannot be watched."""

    def health(self, service: str) -> int | None:
        return None if service else super().health(service)

    def watch(self, _request: Any, context: Any) -> Iterator[Any]:
        context.abort(CODES.UNIMPLEMENTED, "not implemented")
        yield


class Embeds(GrpcDouble):
    """The model has embeddings as well."""

    def embed(self, request: Any, _context: Any) -> Any:
        return message("EmbedResponse")(embedding=[0.5] * 8, embedding_dim=8, prompt_tokens=len(request.tokenized.input_ids))


class Slow(GrpcDouble):
    """Four times slower than the double."""

    token_s = 0.02
    context = 200


_FACTS, _GENERATION, _STREAMS, _DEADLINES = "test_facts.py", "test_generation.py", "test_streams.py", "test_deadlines.py"
VARIATIONS: Mapping[str, tuple[type[GrpcDouble], tuple[str, ...]]] = {
    kind.__name__: (kind, touched)
    for kind, touched in {
        NewReflection: (_FACTS,),
        BothReflections: (_FACTS,),
        OnlyGenerates: ("test_health.py", _FACTS, _GENERATION, _STREAMS, _DEADLINES),
        NoLoads: (_FACTS, _DEADLINES),
        BlindLoads: (_FACTS, _DEADLINES),
        TwoRanks: (_FACTS, _DEADLINES),
        Cumulative: (_GENERATION, _STREAMS),
        SeveralTokensAPiece: (_GENERATION, _STREAMS, _DEADLINES),
        StopTokenLeftOut: (_GENERATION,),
        AbortIsAnError: (_DEADLINES,),
        OtherCodes: ("test_errors.py",),
        NamesAreUnique: (_STREAMS,),
        NoText: (_FACTS, _GENERATION),
        Rounding: (_GENERATION, _STREAMS),
        Ties: (_GENERATION, _STREAMS),
        HealthOfTheWhole: ("test_health.py",),
        Embeds: ("test_errors.py::test_embeddings_of_a_model_without_them_are_refused",),
        Slow: (_STREAMS, _DEADLINES),
    }.items()
}
"""The servers by name, with the cases that they can touch."""
