"""Ports of the loopback interface."""

from __future__ import annotations

import socket


def free() -> int:
    """A port that nothing listens on now; another program may take it before it is used."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def taken(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a program listens on the port, or it cannot be listened on."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            return True
    return False
