"""A gRPC server with vLLM's service, in this process: a toy engine whose tokens follow from the prompt."""

from __future__ import annotations

import hashlib
import io
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from doubles.grpc_messages import ENGINE, METHODS, POOL, message

HEALTH = "grpc.health.v1.Health"
MARK = (("x-vllm-ci-double", "1"),)
SERVING, NOT_SERVING, SERVICE_UNKNOWN = (
    getattr(health_pb2.HealthCheckResponse, name) for name in ("SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
)
CODES = grpc.StatusCode


class Refused(Exception):
    """A request is refused."""

    def __init__(self, details: str, code: Any = CODES.INVALID_ARGUMENT) -> None:
        super().__init__(details)
        self.code = code


class GrpcDouble:
    """A correct server. Defects and legal variations override one method each."""

    vocabulary = 1000
    context = 400
    eos = 2
    token_s = 0.006
    """Time for one token."""
    reflects: Sequence[str] = ("v1alpha",)
    services: Sequence[str] = (ENGINE, HEALTH)
    """Services that reflection lists."""
    methods: Sequence[str] = tuple(METHODS)
    version = "0.32.0"
    key = ""

    def __init__(self) -> None:
        self.running: dict[threading.Event, threading.Event] = {}
        self.aborted: dict[str, threading.Event] = {}
        self.counted = 0
        self.lock = threading.Lock()
        self.begun = time.monotonic()
        self.server: Any = None

    # Health

    def health(self, service: str) -> int | None:
        """Status of a service; ``None`` for one that is unknown."""
        return int(SERVING) if service in ("", ENGINE) else None

    def check(self, request: Any, context: Any) -> Any:
        status = self.health(request.service)
        if status is None:
            context.abort(CODES.NOT_FOUND, f"Unknown service: {request.service}")
        return health_pb2.HealthCheckResponse(status=status)

    def watch(self, request: Any, context: Any) -> Iterator[Any]:
        status = self.health(request.service)
        yield health_pb2.HealthCheckResponse(status=SERVICE_UNKNOWN if status is None else status)
        while context.is_active():
            time.sleep(0.02)

    # What the server says of itself

    def health_check(self, _request: Any, _context: Any) -> Any:
        return message("HealthCheckResponse")(healthy=True, message="Health")

    def get_model_info(self, _request: Any, _context: Any) -> Any:
        facts = {"model_path": "/models/toy", "is_generation": True, "served_model_name": "toy", "eos_token_ids": [self.eos]}
        return message("GetModelInfoResponse")(
            **facts, max_context_length=self.context, vocab_size=self.vocabulary, bos_token_id=1, pad_token_id=0
        )

    def get_server_info(self, _request: Any, _context: Any) -> Any:
        return message("GetServerInfoResponse")(uptime_seconds=time.monotonic() - self.begun, server_type="vllm-grpc")

    def get_loads(self, _request: Any, _context: Any) -> Any:
        """As in vLLM, counts of the last step."""
        load = {"num_running_reqs": self.counted, "token_usage": min(self.counted / 100, 1.0)}
        return message("GetLoadsResponse")(version=self.version, dp_rank_count=1, loads=[load])

    def archive(self) -> bytes:
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr("tokenizer.json", "{}" + " " * 5000)
        return made.getvalue()

    def get_tokenizer(self, _request: Any, _context: Any) -> Iterator[Any]:
        data, kind = self.archive(), message("GetTokenizerChunk")
        yield kind(data=data[:100])
        yield kind(data=data[100:], sha256=hashlib.sha256(data).hexdigest())

    # Generation

    def token(self, ids: Sequence[int], place: int, seed: int = 0) -> int:
        """The token at a place of the answer to a prompt."""
        digest = hashlib.sha256(f"{list(ids)}|{place}|{seed}".encode()).digest()
        return 10 + int.from_bytes(digest[:4], "big") % (self.vocabulary - 10)

    def check_request(self, request: Any) -> None:
        """Refuse what cannot be served.

        Raises:
            Refused: It is refused.
        """
        ids, kind, sampling = list(request.tokenized.input_ids), request.WhichOneof("input"), request.sampling_params
        limits = {
            "prompt is empty": kind is None or (kind == "tokenized" and not ids),
            f"token id is outside of the vocabulary of {self.vocabulary}": any(token >= self.vocabulary for token in ids),
            f"the prompt has {len(ids)} tokens; the limit is {self.context}": len(ids) >= self.context,
            "max_tokens must be at least 1": sampling.HasField("max_tokens") and sampling.max_tokens < 1,
            "temperature must be 0 or more": not sampling.temperature >= 0,
            "top_p must be in (0, 1]": not 0 <= sampling.top_p <= 1,
            "min_p must be in [0, 1]": not 0 <= sampling.min_p <= 1,
            "frequency_penalty must be in [-2, 2]": not -2 <= sampling.frequency_penalty <= 2,
            "repetition_penalty must be above 0": not sampling.repetition_penalty >= 0,
            "min_tokens must be at most max_tokens": sampling.min_tokens > self.lasts(request),
            "logprobs must be at most 20": sampling.logprobs > 20,
            "the constraint is not valid": sampling.WhichOneof("constraint") is not None,
            "stop cannot contain an empty string": "" in sampling.stop,
        }
        if reasons := [reason for reason, broken in limits.items() if broken]:
            raise Refused(reasons[0])

    def lasts(self, request: Any) -> int:
        sampling, length = request.sampling_params, len(request.tokenized.input_ids)
        return min(sampling.max_tokens if sampling.HasField("max_tokens") else self.context, self.context - length)

    def is_wanted(self, context: Any, stop: threading.Event) -> bool:
        """Whether somebody waits for the answer."""
        return bool(context.is_active()) and not stop.is_set()

    def generate(self, request: Any, context: Any) -> Iterator[Any]:
        try:
            self.check_request(request)
        except Refused as error:
            context.abort(error.code, str(error))
        stop = self.aborted[request.request_id] = threading.Event()
        self.running[stop] = stop
        self.admitted(request, stop)
        context.add_callback(lambda: self.gone(stop))
        try:
            yield from self.answer(request, context, stop)
        finally:
            self.end(stop)

    def admitted(self, request: Any, stop: threading.Event) -> None:
        """The engine has a request from now on."""

    def gone(self, stop: threading.Event) -> None:
        """The client is gone, or its deadline is over."""
        stop.set()
        self.end(stop)

    def end(self, stop: threading.Event) -> None:
        self.running.pop(stop, None)

    def step(self) -> None:
        """One step of the engine, after which its counts are known."""
        self.counted = len(self.running)

    def answer(self, request: Any, context: Any, stop: threading.Event) -> Iterator[Any]:
        sampling = request.sampling_params
        made: list[list[int]] = [[] for _ in range(max(sampling.n, 1))]
        reasons = [""] * len(made)
        for place in range(self.lasts(request)):
            self.pause(place)
            if not self.is_wanted(context, stop):
                yield from self.cut(request, made)
                return
            self.step()
            for index, tokens in enumerate(made):
                if reasons[index]:
                    continue
                tokens.append(self.chosen(request, place, index))
                if tokens[-1] in sampling.stop_token_ids:
                    reasons[index] = "stop"
                elif place == self.lasts(request) - 1:
                    reasons[index] = "length"
                last = place == self.lasts(request) - 1
                if last and index == len(made) - 1:  # counts of the step that ends it are without it
                    self.end(stop)
                    self.step()
                yield from self.told(request, index, tokens, reasons[index])

    def chosen(self, request: Any, place: int, index: int) -> int:
        """The token at a place, with what was asked of sampling."""
        forced = [token for token, bias in request.sampling_params.logit_bias.items() if bias >= 100]
        return forced[0] if forced else self.token(self.ids(request), place, self.seed(request, index))

    def ids(self, request: Any) -> list[int]:
        return list(request.tokenized.input_ids) or list(request.text.encode())

    def pause(self, _place: int) -> None:
        time.sleep(self.token_s)

    def seed(self, request: Any, index: int) -> int:
        sampling = request.sampling_params
        greedy = sampling.top_k == 1 or (sampling.HasField("temperature") and not sampling.temperature)
        if not greedy:
            return index + (sampling.seed if sampling.HasField("seed") else time.monotonic_ns())
        return 0

    def cut(self, request: Any, made: list[list[int]]) -> Iterator[Any]:
        """The end of a request that was aborted."""
        for index, tokens in enumerate(made):
            yield self.complete(request, index, tokens, "abort")

    def told(self, request: Any, index: int, tokens: list[int], reason: str) -> Iterator[Any]:
        """Messages after a token."""
        if request.stream:
            yield self.chunk(request, index, tokens[-1:])
        if reason:
            yield self.complete(request, index, tokens[-1:] if request.stream else tokens, reason)

    def chunk(self, request: Any, index: int, tokens: Sequence[int]) -> Any:
        counts = {"prompt_tokens": len(self.ids(request)), "completion_tokens": len(tokens), "index": index}
        return self.response(chunk={"token_ids": tokens, **counts, **self.logprobs(request, tokens)})

    def complete(self, request: Any, index: int, tokens: Sequence[int], reason: str) -> Any:
        counts = {"prompt_tokens": len(self.ids(request)), "completion_tokens": len(tokens), "index": index}
        stop = {"matched_token_id": tokens[-1]} if reason == "stop" else {}
        logprobs = self.logprobs(request, tokens)
        return self.response(complete={"output_ids": tokens, "finish_reason": reason, **counts, **stop, **logprobs})

    def response(self, **kind: Any) -> Any:
        return message("GenerateResponse")(**kind)

    def logprobs(self, request: Any, tokens: Sequence[int]) -> Mapping[str, Any]:
        if not request.sampling_params.HasField("logprobs"):
            return {}
        return {"output_logprobs": {"token_ids": tokens, "token_logprobs": [-0.5] * len(tokens)}}

    def abort(self, request: Any, _context: Any) -> Any:
        for name in request.request_ids:
            if name in self.aborted:
                self.aborted[name].set()
        return message("AbortResponse")()

    def embed(self, _request: Any, context: Any) -> Any:
        context.abort(CODES.INVALID_ARGUMENT, "this model does not support embeddings")

    # The server

    def guarded(self, handler: Callable[..., Any], *, streams: bool) -> Callable[..., Any]:
        """The handler behind the key, and with the mark of a double."""

        def admit(context: Any) -> None:
            if self.key and ("authorization", f"Bearer {self.key}") not in context.invocation_metadata():
                context.abort(CODES.UNAUTHENTICATED, "a key is required")
            context.send_initial_metadata(MARK)

        def one(request: Any, context: Any) -> Any:
            admit(context)
            return handler(request, context)

        def many(request: Any, context: Any) -> Iterator[Any]:
            admit(context)
            yield from handler(request, context)

        return many if streams else one

    def handlers(self) -> Iterator[Any]:
        named = {name: getattr(self, "".join(f"_{c.lower()}" if c.isupper() else c for c in name)[1:]) for name in self.methods}
        methods = {}
        for name, handler in named.items():
            asks, answers, streams = METHODS[name]
            make = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
            methods[name] = make(
                self.guarded(handler, streams=streams),
                request_deserializer=message(asks).FromString,
                response_serializer=message(answers).SerializeToString,
            )
        yield grpc.method_handlers_generic_handler(ENGINE, methods)
        reads = {
            "request_deserializer": health_pb2.HealthCheckRequest.FromString,
            "response_serializer": health_pb2.HealthCheckResponse.SerializeToString,
        }
        yield grpc.method_handlers_generic_handler(
            HEALTH,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self.guarded(self.check, streams=False), **reads),
                "Watch": grpc.unary_stream_rpc_method_handler(self.guarded(self.watch, streams=True), **reads),
            },
        )

    def reflection_handlers(self) -> Iterator[Any]:
        """Both versions have the same messages; the library serves one, under the older name."""
        from grpc_reflection.v1alpha import reflection_pb2

        servicer = reflection.ReflectionServicer(self.services, pool=self.described())
        handler = grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        for version in self.reflects:
            name = f"grpc.reflection.{version}.ServerReflection"
            yield grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})

    def described(self) -> Any:
        """What reflection describes."""
        return POOL


@contextmanager
def running(make: Callable[[], GrpcDouble], *, port: int = 0, credentials: Any = None) -> Iterator[tuple[str, GrpcDouble]]:
    """Serve while the context lasts; yields the address and the double."""
    double = make()
    with ThreadPoolExecutor(64) as pool:
        server = double.server = grpc.server(pool, options=(("grpc.so_reuseport", 0),))
        server.add_generic_rpc_handlers((*double.handlers(), *double.reflection_handlers()))
        address = f"127.0.0.1:{port}"
        found = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        server.start()
        try:
            yield f"127.0.0.1:{found}", double
        finally:
            for stop in list(double.running.values()):
                stop.set()
            server.stop(grace=0).wait(5)
