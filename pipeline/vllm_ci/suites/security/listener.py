"""A listener on this machine that notices when the server fetches something from it."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c63640c080f00026c0124d0e4b2290000000049454e44ae426082"
)


@dataclass(kw_only=True)
class Listener:
    """What came to a port.

    Attributes:
        host: Address of this machine as the server can reach it.
        port: A free port.
        came: The first bytes of every connection; empty for one that sent nothing.
    """

    host: str
    port: int
    came: list[bytes] = field(default_factory=list)

    def heard(self, wait_s: float) -> bytes | None:
        """The first bytes of a connection that came since the last call; ``None`` if none comes in time."""
        until = time.monotonic() + wait_s
        while not self.came and time.monotonic() < until:
            time.sleep(0.02)
        said = max(self.came, key=len) if self.came else None
        self.came.clear()
        return said


@contextmanager
def listening(url: str) -> Iterator[Listener]:
    """Listen while the context lasts, on the address that connections to a server come from.

    Args:
        url: Base URL of the server.
    """
    parts = urlsplit(url)
    with socket.create_connection(
        (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)), timeout=5
    ) as line:
        host = str(line.getsockname()[0])
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as server:
        listener = Listener(host=host, port=server.getsockname()[1])
        stop = threading.Event()
        thread = threading.Thread(target=_serve, args=(server, listener, stop), name="canary-listener", daemon=True)
        thread.start()
        try:
            yield listener
        finally:
            stop.set()
            thread.join()


def _serve(server: socket.socket, listener: Listener, stop: threading.Event) -> None:
    server.settimeout(0.05)
    while not stop.is_set():
        try:
            line, _ = server.accept()
        except TimeoutError:
            continue
        listener.came.append(b"")
        with line:
            line.settimeout(1.0)
            try:
                listener.came[-1:] = [line.recv(4096)]
                head = f"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: {len(_PNG)}\r\nConnection: close\r\n\r\n"
                line.sendall(head.encode() + _PNG)
            except OSError:
                continue


def is_local(host: str) -> bool:
    """Whether a host name is this machine, or a container that only this machine can reach."""
    if host in ("localhost", "vllm"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
