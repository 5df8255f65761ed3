"""Whether a server is ready, whatever it answers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from vllm_ci.programs import ready


@contextmanager
def answering(content: bytes) -> Iterator[str]:
    """A server that says this to every request."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(content)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def whole(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (status.encode(), len(body), body)


def test_a_server_that_completes_is_ready() -> None:
    with answering(whole(b'{"choices": [{"text": "a"}]}')) as url:
        assert ready.why_not(url, "m") == ""


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        whole(b"[]"),
        whole(b"null"),
        whole(b"3"),
        whole(b"\xff"),
        whole(b"[" * 100_000),
        whole(b'{"error": {"message": "no"}}'),
        whole(b'{"choices": []}'),
        whole(b"{}")[:-1],
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{}",
        whole(b"busy", "503 Service Unavailable"),
        whole(b"none", "404 Not Found"),
    ],
)
def test_whatever_a_server_answers_else_is_said_as_a_reason(content: bytes) -> None:
    with answering(content) as url:
        assert ready.why_not(url, "m", timeout_s=10)
