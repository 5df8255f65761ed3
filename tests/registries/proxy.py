"""A proxy in front of a registry that breaks what it is told to: cut connections, errors, wrong bytes, lost answers.

Like nginx with request buffering, it forwards a request only when it has all of it (but for the fault that cuts it there).
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, list[tuple[str, str]], bytes]


@dataclass(kw_only=True)
class Fault:
    """Breaks the next `times` requests that fit.

    Kinds: `status` (answers by itself), `cut_request` (reads half a body, forwards nothing, hangs up), `cut_upstream` (forwards
    half a body, then hangs up on both sides), `cut_response` (half an answer), `lost_answer` (forwards, then hangs up),
    `wrong_bytes` (one bit of the answer's body), `slow` (waits before the answer), `header` (adds headers to the answer).
    """

    kind: str
    method: str = "GET"
    path: str = ".*"
    times: int = 1
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0


@dataclass
class Log:
    """What went through."""

    requests: list[tuple[str, str, int]] = field(default_factory=list)
    sent_up: int = 0

    def count(self, method: str, path: str = ".*") -> int:
        return sum(seen == method and re.search(path, where) is not None for seen, where, _ in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultyProxy

    def _serve(self) -> None:
        if self.server.guard and (answer := self.server.guard(self)):
            # What asks for a token was read by whoever answered; what was refused is read here.
            self.rfile.read(int(self.headers.get("Content-Length", 0)) if not self.path.startswith("/token") else 0)
            self._answer(*answer)
            return
        fault = self.server.take(self.command, self.path)
        length = int(self.headers.get("Content-Length", 0))
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            raise AssertionError("a client that does not say how much it sends cannot be resumed")
        if fault and fault.kind in {"cut_request", "cut_upstream"}:
            half = self.rfile.read(length // 2)
            if fault.kind == "cut_upstream":
                self._half_upstream(half)
            self._note(0)
            self._hang_up()
            return
        body = self.rfile.read(length)
        if fault and fault.kind == "status":
            self._note(fault.status)
            self._answer(fault.status, list(fault.headers.items()), fault.body)
            return
        status, headers, content = self._forward(body)
        if self.server.edit:
            status, headers, content = self.server.edit(self, (status, headers, content))
        self._note(status)
        self._give(fault or Fault(kind=""), status, headers, content)

    def _give(self, fault: Fault, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        """The registry's answer, broken or not."""
        middle = len(content) // 2
        if fault.kind == "slow":
            time.sleep(fault.seconds)
        if fault.kind == "lost_answer":
            self._hang_up()
        elif fault.kind == "cut_response":
            self._answer(status, headers, content[:middle], length=len(content))
            self._hang_up()
        elif fault.kind == "wrong_bytes":
            self._answer(status, headers, content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        else:
            more = list(fault.headers.items()) if fault.kind == "header" else []
            self._answer(status, [*headers, *more], content)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=30)
        try:
            self.server.seen.sent_up += len(body)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            upstream.request(self.command, self.path, body=body or None, headers=headers)
            answer = upstream.getresponse()
            skip = {"connection", "transfer-encoding", "content-length"}
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in skip]
            content = answer.read()
            if self.command == "HEAD" and (size := answer.getheader("Content-Length")):
                kept.append(("Content-Length", size))
            return answer.status, kept, content
        finally:
            upstream.close()

    def _half_upstream(self, half: bytes) -> None:
        host, _, port = self.server.upstream.partition(":")
        lines = [f"{self.command} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in self.headers.items())]
        with socket.create_connection((host, int(port))) as upstream:
            upstream.sendall("\r\n".join([*lines, "", ""]).encode() + half)
            self.server.seen.sent_up += len(half)
            time.sleep(0.1)  # lets the registry read what was sent before the connection ends under it

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, length: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.command != "HEAD" and status != 204:
            self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _note(self, status: int) -> None:
        self.server.seen.requests.append((self.command, self.path, status))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


class FaultyProxy(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.faults: list[Fault] = []
        # Answers in the registry's place, or lets a request through (None).
        self.guard: Callable[[BaseHTTPRequestHandler], Answer | None] | None = None
        # Changes the registry's answer.
        self.edit: Callable[[BaseHTTPRequestHandler, Answer], Answer] | None = None
        self.seen = Log()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def take(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up on us are part of the exercise."""


@contextlib.contextmanager
def faulty_proxy(upstream: str = "", *, tls: ssl.SSLContext | None = None) -> Iterator[FaultyProxy]:
    """Start one; without `upstream` its guard has to answer everything."""
    with FaultyProxy(upstream) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
