"""Tells a server that refuses everything for a while from one that refuses one kind of request always: a smallest request."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Mapping

import httpx

from vllm_ci.suites.reach import SMALLEST

_TIMEOUT_S = 15.0
_REFUSES_ALL = (429, 503)
_TEXT = ("/v1/chat/completions", "/v1/completions")
_EMBEDDINGS = "/v1/embeddings"


class Control:
    """Sends smallest valid requests on new connections, without waiting for rate limits.

    Requests that are refused at the same time share the answer of one control.

    Args:
        url: Base URL of the server.
        model: Served name.
        headers: The key, as sent with other requests.
        tls: Context for https.
        spoken: Changes a body to the dialect of the server.
        clock: Seconds of a monotonic clock.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str,
        headers: Mapping[str, str],
        tls: ssl.SSLContext,
        spoken: Callable[[str, bytes], bytes] = lambda _path, body: body,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url, self._model, self._headers, self._tls = url, model, dict(headers), tls
        self._spoken, self._clock = spoken, clock
        self._lock = threading.Lock()
        self._begun = float("-inf")
        self._served = False

    def served(self) -> bool:
        """Whether the server answers a smallest request now."""
        refused_at = self._clock()
        with self._lock:
            if self._begun < refused_at:
                begun = self._clock()
                self._served = self._ask()
                self._begun = begun
            return self._served

    def _ask(self) -> bool:
        transport = httpx.HTTPTransport(verify=self._tls, trust_env=False)
        try:
            with httpx.Client(
                base_url=self._url, headers=self._headers, timeout=_TIMEOUT_S, transport=transport, trust_env=False
            ) as http:
                return self._served_by(http)
        except httpx.HTTPError:
            return False

    def _served_by(self, http: httpx.Client) -> bool:
        statuses = []
        for path in _TEXT:
            statuses.append(self._status(http, path))
            if statuses[-1] == 200:
                return True
        # Embeddings may have a limit of their own, so they tell only on a server that has nothing else.
        return not set(statuses) & set(_REFUSES_ALL) and self._status(http, _EMBEDDINGS) == 200

    def _status(self, http: httpx.Client, path: str) -> int:
        request = http.build_request("POST", path, json={"model": self._model, **SMALLEST[path]})
        body = self._spoken(path, request.read())
        return http.post(path, content=body, headers={"content-type": "application/json"}).status_code
