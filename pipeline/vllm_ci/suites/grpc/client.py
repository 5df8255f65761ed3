"""A client of the engine's gRPC service: requests by field name, and whole answers."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from vllm_ci.suites.grpc.answer import Answer, CallError, Part
from vllm_ci.suites.grpc.contract import HEALTH, Contract, Method

ANSWER_S = 60.0
"""Timeout for one answer of a server that is not slow."""
SHORT_S = 10.0
"""Timeout for a method that generates nothing."""

_OF_HEALTH: dict[str, Any] = {
    "request_serializer": health_pb2.HealthCheckRequest.SerializeToString,
    "response_deserializer": health_pb2.HealthCheckResponse.FromString,
}

Open = Callable[[], grpc.Channel]


@dataclass(kw_only=True)
class Engine:
    """A gRPC service that can be reached.

    Attributes:
        channel: The connection.
        open: Opens another one.
        contract: Its methods and messages.
        metadata: Metadata of each request: the key.
        slowness: How many times longer answers may take than :data:`ANSWER_S`.
        model: What ``GetModelInfo`` says; ``None`` if it is not offered.
        double: It is one of our test doubles, whose results cannot be used for a release.
        last: The last request and its answer, for reports.
    """

    channel: grpc.Channel
    open: Open
    contract: Contract
    metadata: Sequence[tuple[str, str]] = ()
    slowness: float = 1.0
    model: Any = None
    double: bool = False
    last: Mapping[str, str] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _run: str = field(default_factory=lambda: secrets.token_hex(4))

    def offers(self, name: str) -> bool:
        """Whether the service describes a method."""
        return name in self.contract.methods

    def samples(self, name: str) -> bool:
        """Whether the protocol has a sampling parameter."""
        sampling = self.method("Generate").request.DESCRIPTOR.fields_by_name["sampling_params"].message_type
        return name in sampling.fields_by_name

    def method(self, name: str) -> Method:
        """A method; the case is skipped if the service does not describe it."""
        if name not in self.contract.methods:
            pytest.skip(f"the service has no method {name}")
        return self.contract.methods[name]

    def call(self, name: str, *, timeout_s: float = SHORT_S, **fields: Any) -> Any:
        """The answer of a method that sends one; the case is skipped if the server does not implement it.

        Raises:
            CallError: It ended with an error.
        """
        method = self.method(name)
        request = method.request(**fields)
        self._note(method.path, request, "")
        try:
            answer = method.on(self.channel)(request, timeout=timeout_s, metadata=self.metadata)
        except grpc.RpcError as error:
            self._note(method.path, request, f"{error.code().name}: {error.details()}")
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                pytest.skip(f"the server does not implement {name}: {error.details()}")
            raise CallError(name, error) from error
        self._note(method.path, request, str(answer))
        return answer

    def request(self, *, ids: Sequence[int] | None, stream: bool, request_id: str = "", **fields: Any) -> Any:
        """A request to ``Generate``: greedy and without an early end, unless ``sampling`` says otherwise.

        The case is skipped if the server's protocol lacks one of the fields.
        """
        sampling = {"temperature": 0.0, "max_tokens": 8, "ignore_eos": True, **fields.pop("sampling", {})}
        inputs = {} if ids is None else {"tokenized": {"input_ids": list(ids)}}
        name = request_id or f"vllm-ci-{self._run}-{next(self._numbers)}"
        made = {"request_id": name, "stream": stream, **inputs, **fields}
        kind = self.method("Generate").request
        known = {field.name for field in kind.DESCRIPTOR.fields}
        sampled = {field.name for field in kind.DESCRIPTOR.fields_by_name["sampling_params"].message_type.fields}
        if lacking := sorted(({*made} - known) | ({*sampling} - sampled)):
            pytest.skip(f"the server's protocol has no field {', '.join(lacking)}")
        given = {name: value for name, value in sampling.items() if value is not None}
        return kind(**made, sampling_params=given)

    def start(self, request: Any, *, timeout_s: float | None = None) -> Any:
        """Send a request to ``Generate``; the call, whose messages can be iterated over."""
        limit_s = ANSWER_S * self.slowness if timeout_s is None else timeout_s
        return self.method("Generate").on(self.channel)(request, timeout=limit_s, metadata=self.metadata)

    def generate(
        self,
        *,
        ids: Sequence[int] | None = None,
        stream: bool = False,
        timeout_s: float | None = None,
        during: Callable[[Any, list[Part]], None] = lambda _call, _parts: None,
        **fields: Any,
    ) -> Answer:
        """A whole answer, however it ends.

        Args:
            ids: The prompt.
            stream: Request a stream.
            timeout_s: The deadline.
            during: Called with the call and the messages so far after each message.
            **fields: Further fields of the request, and its ``sampling``.
        """
        request = self.request(ids=ids, stream=stream, **fields)
        return self.send(request, timeout_s=timeout_s, during=during)

    def send(
        self,
        request: Any,
        *,
        timeout_s: float | None = None,
        during: Callable[[Any, list[Part]], None] = lambda _call, _parts: None,
    ) -> Answer:
        """The answer to a request to ``Generate``; see :meth:`generate`."""
        parts: list[Part] = []
        other, begun = 0, time.monotonic()
        call = self.start(request, timeout_s=timeout_s)
        code, details = grpc.StatusCode.OK, ""
        try:
            for message in call:
                kind = message.WhichOneof("response")
                if kind not in ("chunk", "complete"):
                    other += 1
                    continue
                part = Part(at_s=time.monotonic() - begun, final=kind == "complete", message=getattr(message, kind))
                parts.append(part)
                during(call, parts)
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
        finally:
            call.cancel()
        seconds = time.monotonic() - begun
        answer = Answer(parts=parts, code=code, details=details, seconds=seconds, streamed=bool(request.stream), other=other)
        self._note(self.method("Generate").path, request, f"{answer.said}\n{answer.shape}")
        return answer

    def raw(self, path: str, data: bytes = b"", *, streams: bool = False, timeout_s: float = SHORT_S) -> tuple[Any, str]:
        """Status and details of a call that sends bytes as they are."""
        make = self.channel.unary_stream if streams else self.channel.unary_unary
        ask = make(path, request_serializer=bytes, response_deserializer=bytes)
        self.last = {"request": f"{path}\n{data[:64]!r}", "response": ""}
        try:
            found = ask(data, timeout=timeout_s, metadata=self.metadata)
            _ = list(found) if streams else found
        except grpc.RpcError as error:
            self.last = {**self.last, "response": f"{error.code().name}: {error.details()}"}
            return error.code(), error.details() or ""
        return grpc.StatusCode.OK, ""

    def health(self, service: str = "", *, timeout_s: float = SHORT_S) -> Any:
        """The status of a service by gRPC's health checking protocol.

        Raises:
            grpc.RpcError: It ended with an error.
        """
        ask = self.channel.unary_unary(f"/{HEALTH}/Check", **_OF_HEALTH)
        self.last = {"request": f"/{HEALTH}/Check\nservice: {service!r}", "response": ""}
        return ask(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s, metadata=self.metadata).status

    def watched(self, service: str = "", *, timeout_s: float = SHORT_S) -> Any:
        """The first status that the health service's stream tells; ``None`` if it ends without one.

        Raises:
            grpc.RpcError: It ended with an error.
        """
        ask = self.channel.unary_stream(f"/{HEALTH}/Watch", **_OF_HEALTH)
        call = ask(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s, metadata=self.metadata)
        first = next(iter(call), None)
        call.cancel()
        return None if first is None else first.status

    def running(self) -> int | None:
        """Requests that the engine runs or keeps waiting, by ``GetLoads``; ``None`` if it does not tell.

        vLLM's counts are those of the last step of each data-parallel rank, so one small request is made on each of them first.
        """
        if not self.offers("GetLoads"):
            return None
        try:
            ranks = [each.dp_rank for each in self.call("GetLoads").loads]
            for rank in ranks:
                pinned = {"data_parallel_rank": rank} if len(ranks) > 1 else {}
                self.generate(ids=self.prompt(1), sampling={"max_tokens": 1}, **pinned).served()
            loads = self.call("GetLoads").loads
        except pytest.skip.Exception:
            return None
        return sum(each.num_running_reqs + each.num_waiting_reqs for each in loads) if loads else None

    def sized(self, full: int, least: int) -> int:
        """Number of tokens for a case: fewer on a slow server."""
        return full if self.slowness < _SLOW else least

    def prompt(self, number: int = 0, length: int = 12) -> list[int]:
        """Token ids of a prompt: another one for each number, without the ids that end or begin a text."""
        size = int(getattr(self.model, "vocab_size", 0) or 0) or 1000
        special = self._special
        found = (37 + number * 131 + step * 7 * (1 + number % 5) for step in itertools.count())
        usable = (token % size for token in found)
        return list(itertools.islice((token for token in usable if token not in special and token >= _FIRST), length))

    @property
    def _special(self) -> set[int]:
        if self.model is None:
            return set()
        ids = (getattr(self.model, name, 0) for name in ("bos_token_id", "pad_token_id"))
        return {*getattr(self.model, "eos_token_ids", ()), *ids}

    @contextmanager
    def another(self) -> Iterator[Engine]:
        """The same service by a new connection."""
        with self.open() as channel:
            yield Engine(
                channel=channel,
                open=self.open,
                contract=self.contract,
                metadata=self.metadata,
                slowness=self.slowness,
                model=self.model,
            )

    def _note(self, path: str, request: Any, response: str) -> None:
        self.last = {"request": f"{path}\n{str(request)[:2000]}", "response": response[:2000]}


_SLOW = 2.0
_FIRST = 10
"""Tokenizers have their special tokens first, as a rule."""
