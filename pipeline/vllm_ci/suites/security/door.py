"""Requests with and without the key, and what "not there" looks like on this server."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import unquote

from vllm_ci.suites.raw import Headers, RawResponse, send
from vllm_ci.suites.security import evidence
from vllm_ci.suites.security.routes import spellings
from vllm_ci.suites.security.ways import WAYS, Way
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.traffic import Traffic

_TOGETHER = 8
_REFUSED = (401, 403)
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def together(act: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Call ``act`` for all items, a few at the same time; results in the order of the items."""
    with ThreadPoolExecutor(max_workers=_TOGETHER) as pool:
        return list(pool.map(act, items))


@dataclass(kw_only=True)
class Door:
    """A server as seen by clients with and without the key.

    Attributes:
        server: Facts about it.
        key: The key; empty if none was given.
        traffic: Waits for rate limits.
        timeout_s: Time limit for a response.
    """

    server: ServerFacts
    key: str
    traffic: Traffic
    timeout_s: float = 30.0
    _working: dict[str, RawResponse] = field(default_factory=dict)
    _absences: dict[tuple[str, str, bool], tuple[str, RawResponse]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def with_key(self) -> list[tuple[str, str]]:
        """The header with the key; none without one."""
        return [("Authorization", f"Bearer {self.key}")] if self.key else []

    def send(
        self, target: str, *, method: str = "GET", headers: Headers = (), body: bytes = b"", version: str = "HTTP/1.1"
    ) -> RawResponse:
        """Send a request as it is."""
        return send(
            self.server.url,
            target,
            method=method,
            headers=headers,
            body=body,
            version=version,
            timeout_s=self.timeout_s,
            traffic=self.traffic,
        )

    def ask(
        self,
        way: Way,
        headers: Iterable[tuple[str, str]] = (),
        *,
        model: str = "",
        method: str = "",
        target: str = "",
        version: str = "HTTP/1.1",
    ) -> RawResponse:
        """Ask in one way, with these headers and without the key."""
        own, body = self.content(way, model)
        every = [*headers, *own.items()]
        return self.send(target or way.path, method=method or way.method, headers=every, body=body, version=version)

    def content(self, way: Way, model: str = "") -> tuple[dict[str, str], bytes]:
        """Headers and body of a way, as the server wants to have them."""
        own, body = way.content(model or self.server.model)
        return own, self.traffic.spoken(way.path, body)

    def opens(self, way: Way, answer: RawResponse) -> bool:
        """Whether a response proves that the request was served."""
        return evidence.served(answer, way.shows)

    def with_the_key(self, way: Way) -> RawResponse:
        """The response to a way with the key; asked once."""
        with self._lock:
            found = self._working.get(way.name)
        if found is None:
            found = self.ask(way, self.with_key)
            with self._lock:
                self._working[way.name] = found
        return found

    def working(self) -> list[Way]:
        """Ways that the server serves with the key, and refuses without it."""
        candidates = [
            way for way, answer in zip(WAYS, together(self.with_the_key, WAYS), strict=True) if self.opens(way, answer)
        ]
        without = together(self.ask, candidates)
        return [way for way, answer in zip(candidates, without, strict=True) if not self.opens(way, answer)]

    def absent(self, path: str, method: str, *, keyed: bool = True) -> tuple[str, RawResponse]:
        """A path beside ``path`` that cannot exist, and the response to it."""
        parent = path.rstrip("/").rpartition("/")[0]
        key = (parent, method, keyed)
        with self._lock:
            found = self._absences.get(key)
        if found is None:
            word = secrets.token_hex(8)
            made = f"{parent}/{word}"
            found = (made, self.send(made, method=method, headers=self.with_key if keyed else ()))
            with self._lock:
                self._absences[key] = found
        return found

    def is_absent(self, answer: RawResponse, path: str, method: str, *, keyed: bool = True) -> bool:
        """Whether a response looks like the one for a path that cannot exist."""
        made, control = self.absent(path, method, keyed=keyed)
        words = (path, made, path.rpartition("/")[2], made.rpartition("/")[2])
        return evidence.alike(answer, control, *words)

    def development(self, path: str) -> str:
        """How it shows that a development route exists, or can be reached by another spelling; empty if nothing shows it."""
        other = self.absent(path, "PUT")[0]
        pairs = [(path, other), *zip(spellings(path), spellings(other), strict=True)]
        for target, twin in pairs:
            if shown := self._exists(target, twin, reads=path in _READS):
                return shown if target == path else f"under the spelling {target!r}, {shown}"
        return ""

    def _exists(self, target: str, twin: str, *, reads: bool) -> str:
        """What shows that a target exists and its twin does not, by requests without effect.

        PUT is no method of these routes, so a router that knows the path refuses the method (RFC 9110, section 15.5.6), and one
        that does not says that the path is unknown. A gateway that refuses methods refuses them for a random path, too.
        """
        answer, control = (self.send(each, method="PUT", headers=self.with_key) for each in (target, twin))
        if answer.status == 405 and control.status and control.status not in (405, *_REFUSED):
            return f"PUT is answered 405, and {control.status} for a path that cannot exist"
        if not reads:
            return ""
        answer, control = (self.send(each, headers=self.with_key) for each in (target, twin))
        if evidence.content(answer) and not evidence.alike(answer, control, *_words(target), *_words(twin)):
            return f"GET returns data: {answer.text[:80]}"
        return ""


def _words(target: str) -> list[str]:
    """A target and its parts, as sent and decoded, which a response may repeat."""
    forms = (target, unquote(target), unquote(unquote(target)), target.partition("?")[0])
    return [word for form in forms for word in (form, *re.findall(r"[\w.-]{3,}", form))]


_READS = (
    *("/server_info", "/is_sleeping", "/is_paused", "/get_world_size", "/tokenizer_info", "/weight_info", "/weight_checker"),
    *("/fault_tolerance/status", "/__debug__", "/debug/pprof"),
)
"""Development routes that a GET only reads."""
