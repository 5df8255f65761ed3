"""The messages of vLLM's gRPC service, as the server describes them by reflection, or as an installed package does.

vLLM's protocol grows with its versions. Messages made from the server's own description fit each of them, so that no copy of
the protocol has to be kept here. Reflection: https://grpc.io/docs/guides/reflection/; its versions ``v1`` and ``v1alpha`` have
the same messages, under other names.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection_pb2

ENGINE = "vllm.grpc.engine.VllmEngine"
HEALTH = "grpc.health.v1.Health"
PACKAGE = "smg_grpc_proto"
"""Distribution ``smg-grpc-proto``, which vLLM's own extra ``grpc`` installs: used if the server has no reflection."""
_UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
# A channel waits longer after each failed connection, up to two minutes; a server that comes back is to be seen at once.
_PATIENT = (("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 1000))
OPTIONS = (*_UNLIMITED, *_PATIENT, ("grpc.enable_http_proxy", 0))
"""Of channels."""
_VERSIONS = ("v1", "v1alpha")
_MOST_FILES = 200


class NoContractError(Exception):
    """The messages of the service are not known; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method of the service.

    Attributes:
        path: As requests name it (``/package.Service/Method``).
        request: Class of its request.
        response: Class of its response, or of each response of a stream.
        streams: The server answers with a stream.
    """

    path: str
    request: Any
    response: Any
    streams: bool

    def on(self, channel: grpc.Channel) -> Any:
        """The method as a function of a request, ``timeout`` and ``metadata``."""
        make = channel.unary_stream if self.streams else channel.unary_unary
        encoded, decoded = self.request.SerializeToString, self.response.FromString
        return make(self.path, request_serializer=encoded, response_deserializer=decoded)


@dataclass(frozen=True, kw_only=True)
class Contract:
    """The engine's service.

    Attributes:
        methods: Its methods by name.
        source: Where the description comes from.
        listed: Services that the server lists; empty without reflection.
    """

    methods: Mapping[str, Method]
    source: str
    listed: Sequence[str] = ()


def contract(channel: grpc.Channel, metadata: Sequence[tuple[str, str]], timeout_s: float) -> Contract:
    """The engine's service, described by the server or, if it has no reflection, by an installed package.

    Raises:
        NoContractError: Neither describes it.
        grpc.RpcError: The server cannot be reached, or refuses the key.
    """
    for version in _VERSIONS:
        asking = _Reflection(channel, version, metadata, timeout_s)
        try:
            listed = asking.services()
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND):
                continue
            raise
        if ENGINE not in listed:
            raise NoContractError(f"the server has no service {ENGINE}; it lists {', '.join(listed) or 'none'}")
        methods = _methods(_pool(asking.files(ENGINE)))
        return Contract(methods=methods, source=f"the server's reflection ({version})", listed=listed)
    return _installed()


def _installed() -> Contract:
    try:
        described = importlib.import_module(PACKAGE).vllm_engine_pb2.DESCRIPTOR.services_by_name["VllmEngine"]
    except (ImportError, AttributeError, KeyError) as error:
        raise NoContractError(
            "the server has no reflection, and the package smg-grpc-proto, which describes the service, is not installed"
        ) from error
    return Contract(methods=_methods_of(described), source="the package smg-grpc-proto")


class _Reflection:
    """One version of the reflection service."""

    def __init__(self, channel: grpc.Channel, version: str, metadata: Sequence[tuple[str, str]], timeout_s: float) -> None:
        self._call = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        self._metadata, self._timeout_s = metadata, timeout_s

    def services(self) -> list[str]:
        answer = self._ask(list_services="")
        return [service.name for service in answer.list_services_response.service]

    def files(self, symbol: str) -> Iterator[Any]:
        """The file that defines ``symbol``, and all that it imports, as descriptors."""
        known: set[str] = set()
        wanted = [{"file_containing_symbol": symbol}]
        while wanted:
            answer = self._ask(**wanted.pop())
            if answer.HasField("error_response"):
                raise NoContractError(
                    f"the server's reflection does not describe {symbol}: {answer.error_response.error_message}"
                )
            for each in answer.file_descriptor_response.file_descriptor_proto:
                file = _file(each)
                if file.name in known:
                    continue
                known.add(file.name)
                yield file
                wanted += [{"file_by_filename": name} for name in file.dependency if name not in known]
            if len(known) > _MOST_FILES:
                raise NoContractError(f"the server's reflection describes {symbol} by more than {_MOST_FILES} files")

    def _ask(self, **question: str) -> Any:
        asked = iter([reflection_pb2.ServerReflectionRequest(**question)])
        answer = next(self._call(asked, timeout=self._timeout_s, metadata=self._metadata), None)
        if answer is None:
            raise NoContractError("the server's reflection ends without an answer")
        return answer


def _file(data: bytes) -> Any:
    try:
        return descriptor_pb2.FileDescriptorProto.FromString(data)
    except DecodeError as error:
        raise NoContractError("the server's reflection describes no files of a protocol") from error


def _pool(files: Iterator[Any]) -> descriptor_pool.DescriptorPool:
    """A pool with these files; each is added after those that it imports."""
    waiting = {file.name: file for file in files}
    pool = descriptor_pool.DescriptorPool()
    added: set[str] = set()
    while waiting:
        ready = [file for file in waiting.values() if set(file.dependency) <= added]
        if not ready:
            raise NoContractError(f"the server's reflection lacks imports of {', '.join(waiting)}")
        for file in ready:
            try:
                pool.Add(file)
            except TypeError as error:
                raise NoContractError(f"the server's description of {file.name} is not valid: {error}") from error
            added.add(waiting.pop(file.name).name)
    return pool


def _methods(pool: descriptor_pool.DescriptorPool) -> dict[str, Method]:
    try:
        return _methods_of(pool.FindServiceByName(ENGINE))
    except KeyError as error:
        raise NoContractError(f"the server's reflection lists {ENGINE}, but does not describe it") from error


def _methods_of(service: Any) -> dict[str, Method]:
    methods = {
        method.name: Method(
            path=f"/{service.full_name}/{method.name}",
            request=message_factory.GetMessageClass(method.input_type),
            response=message_factory.GetMessageClass(method.output_type),
            streams=method.server_streaming,
        )
        for method in service.methods
    }
    _require_generate(methods.get("Generate"))
    return methods


def _require_generate(method: Method | None) -> None:
    """Refuse another protocol under the same name.

    Raises:
        NoContractError: ``Generate``, or a field that each request has, is not there.
    """
    if method is None or not method.streams:
        raise NoContractError(f"{ENGINE} has no method Generate with a stream of answers")
    request, response = method.request.DESCRIPTOR, method.response.DESCRIPTOR
    lacking = set(_REQUEST) - set(request.fields_by_name)
    if not lacking and (sampling := request.fields_by_name["sampling_params"].message_type) is not None:
        lacking = set(_SAMPLING) - set(sampling.fields_by_name)
    if "response" not in response.oneofs_by_name:
        lacking.add("response")
    if lacking:
        raise NoContractError(f"Generate of this server lacks {', '.join(sorted(lacking))}: another protocol than vLLM's")


_REQUEST = ("request_id", "tokenized", "sampling_params", "stream")
_SAMPLING = ("temperature", "max_tokens", "ignore_eos")
