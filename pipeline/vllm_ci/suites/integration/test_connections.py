"""Connections stay usable, or the server says that it closes them."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import urlsplit

import pytest

from vllm_ci.suites.client import ApiClient
from vllm_ci.suites.findings import Finding
from vllm_ci.suites.server import ServerFacts

Judge = Callable[[Iterable[Finding]], None]
_QUIET_S = 0.3
"""A server that closes the connection because of the request does so at once; one that closes idle ones does it later."""
_ANSWER_S = 60.0
_RULE = "RFC 9112, section 9.6: a server sends `Connection: close` with its last response"


@pytest.mark.requires_capability("text")
def test_a_refusal_keeps_the_connection_or_announces_its_end(
    client: ApiClient, server: ServerFacts, api_key: str, judge: Judge, patience: Callable[[float], float]
) -> None:
    """Clients reuse connections: the next request on one that was closed without a word fails, whatever it asks for."""
    requests = {
        "a bad value": json.dumps({**client.body("hello", max_tokens=1), "temperature": "hot"}).encode(),
        "an unknown model": json.dumps({**client.body("hello", max_tokens=1), "model": "no-such-model"}).encode(),
        "a body that is no object": b"[]",
    }
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {api_key}"} if api_key else {})}
    wait_s = patience(_ANSWER_S)
    found = {what: _afterwards(server.url, client.path, body, headers, wait_s) for what, body in requests.items()}
    told = "; ".join(f"after {what}: {how}" for what, how in found.items() if how)
    message = f"an error answer closes the connection without announcing it ({told}); {_RULE}"
    judge([Finding(id="closes-unannounced", severity="low", message=message)] if told else [])


def _afterwards(url: str, path: str, body: bytes, headers: Mapping[str, str], wait_s: float) -> str:
    """What happens to the connection after the answer to a request; empty if it is kept, or its end is announced."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    context = ssl.create_default_context() if secure else None
    line = (
        http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=wait_s, context=context)
        if secure
        else http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=wait_s)
    )
    try:
        line.request("POST", parts.path.rstrip("/") + path, body=body, headers=dict(headers))
        answer = line.getresponse()
        answer.read()
        if answer.status == 200 or answer.will_close or line.sock is None:
            return ""
        return _closed(line)
    except (http.client.HTTPException, OSError) as error:
        return f"no whole answer ({type(error).__name__})"
    finally:
        line.close()


def _closed(line: http.client.HTTPConnection) -> str:
    line.sock.settimeout(_QUIET_S)
    try:
        more = line.sock.recv(1)
    except TimeoutError:
        return ""
    except OSError as error:
        return f"reset ({error.strerror or type(error).__name__})"
    return "bytes after the end of the answer" if more else "closed"
