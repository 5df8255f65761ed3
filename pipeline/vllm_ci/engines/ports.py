"""Ports of the loopback interface."""

from __future__ import annotations

import random
import socket
from collections.abc import Container
from pathlib import Path

_LOWEST = 20000


def free() -> int:
    """A port that nothing listens on now; another program may take it before it is used."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def lasting(used: Container[int] = ()) -> int:
    """A port for a server that takes long to start, or that comes back: the kernel gives it to no outgoing connection.

    Args:
        used: Ports that are not to be taken, although nothing may listen on them yet.
    """
    candidates = list(range(_LOWEST, _first_outgoing()))
    random.shuffle(candidates)
    return next((port for port in candidates if port not in used and not taken(port)), 0) or free()


def _first_outgoing() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return _LOWEST


def taken(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a program listens on the port, or it cannot be listened on."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            return True
    return False
