"""An httpx transport that tells the server's behaviour from accidents of the connection.

A kept connection that is reset before any byte of an answer is tried once more on a fresh one (RFC 9112, section 9.3.1: clients
may repeat a request on a new connection), and rate limits are waited for (:mod:`vllm_ci.suites.traffic`).
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Any

import httpx

from vllm_ci.suites.refusals import Refusals
from vllm_ci.suites.traffic import Traffic

_KEPT = httpx.Limits(max_connections=None, max_keepalive_connections=64)
_FRESH = httpx.Limits(max_connections=None, max_keepalive_connections=0)
ON_ITS_OWN_CONNECTION = {"vllm_ci.own_connection": True}
"""Extension of an httpx request that must not share a connection: a server may remember the key that an earlier one had."""
_RESET = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError, httpx.CloseError)


class PatientTransport(httpx.BaseTransport):
    """Sends requests on kept connections.

    Args:
        traffic: Gets what happened.
        tls: Context for https.
        kept: Transport that keeps connections; for tests.
        fresh: Transport that opens a connection for each request; for tests.
        sleep: Waits some seconds.
    """

    def __init__(
        self,
        traffic: Traffic,
        *,
        tls: ssl.SSLContext,
        kept: httpx.BaseTransport | None = None,
        fresh: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._traffic = traffic
        self._kept = kept or httpx.HTTPTransport(verify=tls, limits=_KEPT, trust_env=False)
        self._fresh = fresh or httpx.HTTPTransport(verify=tls, limits=_FRESH, trust_env=False)
        self._sleep = sleep

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; waits and sends it again while the server asks to wait."""
        body = self._traffic.spoken(request.url.path, request.read())
        if body != request.content:
            # In place, so that reports show what was sent; httpx has no other way to change the body of a request.
            if "transfer-encoding" not in request.headers:
                request.headers["content-length"] = str(len(body))
            vars(request).update(stream=httpx.ByteStream(body), _content=body)
        refusals = self._traffic.sent(request.method, request.url.path, body)
        while True:
            answer = self._answer(request)
            pause_s = self._pause_s(answer, refusals)
            if pause_s is None:
                return answer
            answer.close()
            self._sleep(pause_s)

    def _pause_s(self, answer: httpx.Response, refusals: Refusals) -> float | None:
        try:
            return refusals.pause_s(answer.status_code, answer.headers.get("retry-after"))
        except BaseException:
            answer.close()
            raise

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if request.extensions.keys() & ON_ITS_OWN_CONNECTION.keys():
            return self._fresh.handle_request(request)
        opened = False

        def trace(event: str, _info: Any) -> None:
            nonlocal opened
            opened = opened or event.startswith("connection.connect")

        given = dict(request.extensions)
        request.extensions = {**given, "trace": trace}
        try:
            return self._kept.handle_request(request)
        except _RESET:
            if opened:
                raise
            self._traffic.reset(request.method, request.url.path)
        finally:
            request.extensions = given
        return self._fresh.handle_request(request)

    def close(self) -> None:
        """Close the connections."""
        self._kept.close()
        self._fresh.close()
