"""HTTP/2 requests with any pseudo headers, which a library would refuse to send (RFC 9113; RFC 7541 without Huffman codes)."""

from __future__ import annotations

import socket
from collections.abc import Iterable

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADERS, _RST, _SETTINGS, _GOAWAY = 1, 3, 4, 7


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes((len(text),)) + text
    rest, found = len(text) - 127, b"\x7f"
    while rest >= 128:
        found, rest = found + bytes((rest % 128 + 128,)), rest // 128
    return found + bytes((rest,)) + text


def ask(host: str, port: int, headers: Iterable[tuple[str, str]]) -> str:
    """Send one request without a body: ``headers``, ``reset``, ``goaway`` or ``closed`` is what came back."""
    block = b"".join(_literal(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers)
    with socket.create_connection((host, port), timeout=1.5) as connection:
        connection.sendall(_PREFACE + frame(_SETTINGS, 0, 0, b"") + frame(_HEADERS, 5, 1, block))
        received = b""
        while True:
            while len(received) < 9 or len(received) < 9 + int.from_bytes(received[:3], "big"):
                try:
                    more = connection.recv(65536)
                except OSError:  # it says nothing, and closes the connection later
                    return "closed"
                if not more:
                    return "closed"
                received += more
            kind, size = received[3], int.from_bytes(received[:3], "big")
            if kind in (_HEADERS, _RST, _GOAWAY):
                return {_HEADERS: "headers", _RST: "reset", _GOAWAY: "goaway"}[kind]
            received = received[9 + size :]
