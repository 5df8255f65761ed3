"""A gRPC server in the place of ``vllm serve --grpc``: the double, whose tokens are numbered, as a process of its own.

Usage: ``grpc_server.py PORT NAME SEEN [MODE]``. It writes each call and its metadata to the file SEEN. On SIGTERM it ends as
vLLM does: health says NOT_SERVING, and what is open may go on for five seconds.

Modes: ``broken``: every fifth generation ends with INTERNAL; ``fragile``: ends at a prompt of the token 10 alone; ``dies``:
ends at once; ``unwell``: generates, but health says NOT_SERVING; ``mute``: no generation ever ends; ``plain``: tokens are those
of the double.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import grpc

from doubles.grpc_double import CODES, NOT_SERVING, GrpcDouble

PLACES = 1000
"""A token is the number of the server times this, plus its place in the answer."""


class Numbered(GrpcDouble):
    token_s = 0.05

    def __init__(self, name: str, mode: str, ending: threading.Event) -> None:
        super().__init__()
        self.name, self.mode, self.ending = name, mode, ending
        self.count = itertools.count(1)

    def chosen(self, request: Any, place: int, index: int) -> int:  # noqa: ARG002
        return ord(self.name[0]) * PLACES + place

    def guarded(self, handler: Callable[..., Any], *, streams: bool) -> Callable[..., Any]:  # noqa: ARG002
        """Nothing is sent before the first message, as by vLLM."""
        return handler

    def health(self, service: str) -> int | None:
        return int(NOT_SERVING) if self.ending.is_set() or self.mode == "unwell" else super().health(service)

    def generate(self, request: Any, context: Any) -> Iterator[Any]:
        if self.mode == "broken" and not next(self.count) % 5:
            context.abort(CODES.INTERNAL, "CUDA error: an illegal memory access was encountered")
        if self.mode == "fragile" and list(request.tokenized.input_ids) == [10]:
            os._exit(9)
        while self.mode == "mute":
            time.sleep(1)
        yield from super().generate(request, context)


class Seen(grpc.ServerInterceptor):  # type: ignore[misc]  # without types
    """Writes down what reaches the server."""

    def __init__(self, file: Path) -> None:
        self.file = file.open("a", encoding="utf-8", buffering=1)

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        metadata = {str(key): str(value) for key, value in handler_call_details.invocation_metadata}
        self.file.write(json.dumps(["POST", handler_call_details.method, metadata]) + "\n")
        return continuation(handler_call_details)


def main(port: str, name: str, seen: str, mode: str = "") -> None:
    sys.stdout.write(f"INFO {name} starts in process {os.getpid()}\n")
    sys.stdout.flush()
    if mode == "dies":
        sys.exit("gRPC mode requires smg-grpc-servicer")
    ending = threading.Event()
    double = GrpcDouble() if mode == "plain" else Numbered(name, mode, ending)
    server = grpc.server(ThreadPoolExecutor(256), interceptors=(Seen(Path(seen)),), options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((*double.handlers(), *double.reflection_handlers()))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    while not ending.wait(0.05):
        pass
    server.stop(grace=5.0).wait()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
