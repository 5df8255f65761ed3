"""Sends requests exactly as given, valid or not: paths are not normalised, and only ``Host`` is added to the headers."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, kw_only=True)
class RawResponse:
    """A response.

    Attributes:
        status: HTTP status; 0 if the server closed the connection or did not send HTTP.
        body: The raw body.
        headers: Names in lower case.
    """

    status: int
    body: bytes = b""
    headers: Mapping[str, str]


def send(
    url: str,
    target: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    timeout_s: float = 30.0,
) -> RawResponse:
    """Send one request on a new connection.

    Args:
        url: Base URL of the server.
        target: Request target, sent unchanged (RFC 9112, section 3.2).
        method: Method.
        headers: Headers; ``Content-Length`` is added if there is a body.
        body: Body.
        timeout_s: Timeout for connecting and for each read.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    connection = (
        http.client.HTTPSConnection(host, port, timeout=timeout_s, context=ssl.create_default_context())
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, port, timeout=timeout_s)
    )
    prefix = parts.path.rstrip("/")
    try:
        connection.putrequest(method, prefix + target, skip_accept_encoding=True)
        for name, value in {**(headers or {}), **({"content-length": str(len(body))} if body else {})}.items():
            connection.putheader(name, value)
        connection.endheaders(body or None)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return RawResponse(status=answer.status, body=answer.read(), headers=found)
    except (http.client.HTTPException, ConnectionError, BrokenPipeError):
        return RawResponse(status=0, headers={})
    finally:
        connection.close()
