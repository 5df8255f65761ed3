"""A client that opens many generations at once and checks that each is whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import anyio
import grpc

from doubles.grpc_messages import ENGINE, message
from standin.grpc_server import PLACES

Metadata = Sequence[tuple[str, str]]
_LIMIT = 200


@dataclass(kw_only=True)
class Generated:
    """What came of one generation.

    Attributes:
        places: Of its tokens, in the order they came in.
        servers: Names of the servers that sent them.
        code: Status that ended it.
        details: Message of the status.
        finished: Reason of its end.
        metadata: That came before the answer.
    """

    places: list[int] = field(default_factory=list)
    servers: set[str] = field(default_factory=set)
    code: Any = None
    details: str = ""
    finished: str = ""
    metadata: dict[str, str] = field(default_factory=dict)

    def whole(self, tokens: int) -> bool:
        """Whether all tokens came, once and in order, from one server, and its end."""
        ended = self.code is grpc.StatusCode.OK and self.finished == "length"
        return ended and self.places == list(range(tokens)) and len(self.servers) == 1


@dataclass(kw_only=True)
class Client:
    """A client of the gateway.

    Attributes:
        channel: The connection, which all generations share.
        metadata: Of each request.
    """

    channel: grpc.Channel
    metadata: Metadata = ()

    def call(self, name: str, data: bytes = b"", *, service: str = ENGINE, metadata: Metadata | None = None) -> Any:
        """Status and message of a call that sends bytes as they are."""
        ask = self.channel.unary_unary(f"/{service}/{name}", request_serializer=bytes, response_deserializer=bytes)
        given = self.metadata if metadata is None else metadata
        try:
            ask(data, timeout=20, metadata=given)
        except grpc.RpcError as error:
            return error.code(), error.details()
        return grpc.StatusCode.OK, ""

    def generate(
        self,
        tokens: int = 1,
        *,
        stream: bool = True,
        metadata: Metadata | None = None,
        size: int = 3,
        leaves_after: int = 0,
        during: Callable[[], None] | None = None,
    ) -> Generated:
        """A generation.

        Args:
            tokens: How many.
            stream: Streamed.
            metadata: Of the request, instead of the client's.
            size: Of the prompt.
            leaves_after: Cancel it after so many messages.
            during: Called after the third message.
        """
        found = Generated()
        request = message("GenerateRequest")(
            request_id="r",
            tokenized={"input_ids": range(10, 10 + size)},
            sampling_params={"temperature": 0.0, "max_tokens": tokens},
            stream=stream,
        )
        ask = self.channel.unary_stream(
            f"/{ENGINE}/Generate",
            request_serializer=message("GenerateRequest").SerializeToString,
            response_deserializer=message("GenerateResponse").FromString,
        )
        call = ask(request, timeout=60, metadata=self.metadata if metadata is None else metadata)
        try:
            for number, each in enumerate(call, 1):
                kind = each.WhichOneof("response")
                if kind == "complete":
                    found.finished = each.complete.finish_reason
                part = each.chunk.token_ids if kind == "chunk" else [] if stream else each.complete.output_ids
                found.places += [token % PLACES for token in part]
                found.servers |= {chr(token // PLACES) for token in part}
                if number == 3 and during is not None:
                    during()
                if number == leaves_after:
                    call.cancel()
            found.code = call.code()
        except grpc.RpcError as error:
            found.code, found.details = error.code(), error.details()
        found.metadata = {str(key): str(value) for key, value in call.initial_metadata() or ()}
        return found

    async def many(self, count: int, tokens: int, found: list[Generated]) -> None:
        """So many generations at once, until all have ended."""
        limiter = anyio.CapacityLimiter(_LIMIT)

        async def one() -> None:
            found.append(await anyio.to_thread.run_sync(self.generate, tokens, limiter=limiter))

        async with anyio.create_task_group() as group:
            for _ in range(count):
                group.start_soon(one)

    async def steady(self, found: list[Generated], stop: anyio.Event) -> None:
        """Short generations one after another, for as long as a change lasts."""
        while not stop.is_set():
            found.append(await anyio.to_thread.run_sync(self.generate, 2))
            await anyio.sleep(0.01)


def client(stack: ExitStack, address: str, *, key: str = "", authorities: bytes | None = None) -> Client:
    """A client of ``grpc://HOST:PORT`` or, with certificates of authorities, ``grpcs://HOST:PORT``."""
    scheme, _, target = address.partition("://")
    options = (("grpc.enable_http_proxy", 0),)
    if scheme == "grpcs":
        channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(authorities), options=options)
    else:
        channel = grpc.insecure_channel(target, options=options)
    return Client(channel=stack.enter_context(channel), metadata=(("authorization", f"Bearer {key}"),) if key else ())
