"""A server that plays a script to each connection, and responses made by hand."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import pytest

Script = Callable[["Peer"], None]


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number

    def request(self) -> bytes:
        """Head and body of the next request; empty when the client has gone."""
        head = b""
        while b"\r\n\r\n" not in head:
            data = self.sock.recv(65536)
            if not data:
                return b""
            head += data
        head, _, body = head.partition(b"\r\n\r\n")
        length = next(
            (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        while len(body) < length:
            body += self.sock.recv(65536)
        return head + b"\r\n\r\n" + body

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.sock.sendall(piece)

    def until_gone(self) -> None:
        """Wait for the client to hang up."""
        with contextlib.suppress(ConnectionError):
            while self.sock.recv(65536):
                pass


class ScriptedServer:
    def __init__(self, script: Script, tls: ssl.SSLContext | None) -> None:
        self.script = script
        self.tls = tls
        self.connections = 0
        self.problems: list[Exception] = []
        self.hung_up = threading.Event()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        threads = []
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._open.append(sock)
                self.connections += 1
                threads.append(threading.Thread(target=self._play, args=(sock, self.connections), daemon=True))
                threads[-1].start()
        for thread in threads:
            thread.join(5)

    def _play(self, sock: socket.socket, number: int) -> None:
        try:
            with self.tls.wrap_socket(sock, server_side=True) if self.tls else sock as wrapped:
                self.script(Peer(wrapped, number))
        except (ssl.SSLError, ConnectionError, BrokenPipeError) as problem:
            self.problems.append(problem)
        finally:
            self.hung_up.set()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)


@pytest.fixture
def serve() -> Iterator[Callable[..., ScriptedServer]]:
    """Starts a server that plays ``script``, over TLS with ``tls``."""
    started: list[ScriptedServer] = []

    def start(script: Script, tls: ssl.SSLContext | None = None) -> ScriptedServer:
        started.append(ScriptedServer(script, tls))
        return started[-1]

    yield start
    for server in started:
        server.close()
