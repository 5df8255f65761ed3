"""Receives large files over HTTP: what the network brings goes to a file in pieces of a megabyte.

With requests, whose parser of HTTP leaves bodies to C code: httpx handles each record of TLS (16 kB) in Python, which needs as
much processor time for the wheels of an image as unpacking them.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, BinaryIO, Self

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

_PIECE = 1 << 20
_CONNECT_S, _READ_S = 20.0, 60.0


class Unreachable(Exception):
    """A server to which there is no connection."""


class Broken(Exception):
    """A connection that ended before the answer did; another request may go on."""


class Answer:
    """The answer to a request, whose body was not read yet.

    Attributes:
        status: Its status.
    """

    def __init__(self, response: requests.Response) -> None:
        self._response = response
        self.status: int = response.status_code

    def to(self, file: BinaryIO) -> None:
        """Write the body to a file.

        Raises:
            Broken: It ended early; what came is in the file.
        """
        file.writelines(self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        while True:
            try:
                piece: bytes = self._response.raw.read(_PIECE, decode_content=False)
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                raise Broken(str(error)) from error
            if not piece:
                return
            yield piece

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()


class Connections:
    """Open connections, to break them while other threads wait for an answer: closing them would not wake those."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._broken = False

    def add(self, opened: socket.socket) -> None:
        """Note a new one."""
        self._sockets.append(opened)
        if self._broken:
            self.shutdown()

    def shutdown(self) -> None:
        """Break all, and those that are opened later."""
        self._broken = True
        for each in self._sockets:
            with suppress(OSError):  # closed, or wrapped by the TLS connection that comes after it
                # Not the method of a TLS socket, which takes its session away from the thread that reads.
                socket.socket.shutdown(each, socket.SHUT_RDWR)


class Receiver:
    """Asks for files, from several threads, following the user's proxies, certificates and netrc.

    Args:
        kept: Connections that are kept for each host.
        certificates: File with more certificate authorities.
        connections: Told of all that are opened.
    """

    def __init__(self, kept: int, certificates: str = "", connections: Connections | None = None) -> None:
        self._session = requests.Session()
        told = (connections or Connections()).add
        adapter = _Adapter(told, ssl.create_default_context(cafile=certificates or None), kept)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)

    def get(self, place: str, headers: Mapping[str, str]) -> Answer:
        """Ask for a file.

        Raises:
            Unreachable: There is no connection.
            Broken: The connection ended before an answer.
        """
        try:
            response = self._session.get(place, headers=dict(headers), stream=True, timeout=(_CONNECT_S, _READ_S))
        except (requests.exceptions.SSLError, requests.exceptions.ProxyError, requests.exceptions.ConnectTimeout) as error:
            raise Unreachable(str(error)) from error
        except requests.exceptions.ConnectionError as error:
            if error.args and isinstance(error.args[0], urllib3.exceptions.MaxRetryError):
                raise Unreachable(_reason(error.args[0])) from error
            raise Broken(str(error)) from error
        except (requests.exceptions.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise Broken(str(error)) from error
        except (requests.exceptions.RequestException, ValueError) as error:  # an address that is none
            raise Unreachable(str(error)) from error
        return Answer(response)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()


def _reason(error: urllib3.exceptions.MaxRetryError) -> str:
    """The cause, without the address and the number of tries."""
    return str(error.reason).rpartition(": ")[2] if error.reason else str(error)


class _Adapter(HTTPAdapter):
    """Verifies servers by a context, and tells of each socket that is opened."""

    def __init__(self, connected: Any, context: ssl.SSLContext, connections: int) -> None:
        self._context = context

        class Plain(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                connected(self.sock)

        class Encrypted(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                connected(self.sock)

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class EncryptedPool(HTTPSConnectionPool):
            ConnectionCls = Encrypted

        self._pools = {"http": PlainPool, "https": EncryptedPool}
        super().__init__(pool_connections=connections, pool_maxsize=connections)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **more: Any) -> None:
        super().init_poolmanager(connections, maxsize, block=block, ssl_context=self._context, **more)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **more: Any) -> Any:
        manager = super().proxy_manager_for(proxy, ssl_context=self._context, **more)
        manager.pool_classes_by_scheme = self._pools
        return manager

    def cert_verify(self, *_: Any) -> None:
        """Leave it to the context: requests would add the authorities of its own file."""
