"""A conversation with one registry host: authentication, retries, and errors that say which of them it is."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

import httpx

from vllm_ci.registry import locations, refusals
from vllm_ci.registry.access import Access, RegistryEndpoint
from vllm_ci.registry.answer import RegistryAnswer, read
from vllm_ci.registry.authentication import Authentication
from vllm_ci.registry.challenges import parse_challenges
from vllm_ci.registry.credentials import Credentials
from vllm_ci.registry.errors import UnreachableError
from vllm_ci.registry.retry import STATUSES, Failures
from vllm_ci.registry.tokens import TokenSource
from vllm_ci.registry.wire import Body, Outgoing, Wire, distrusted

_T = TypeVar("_T")
_SHORT_BYTES = 64 << 10


class Session:
    """Requests to one endpoint; safe for threads.

    Args:
        endpoint: The registry host, and the repository that credentials are looked up for.
        access: How it is reached.
    """

    def __init__(self, endpoint: RegistryEndpoint, access: Access) -> None:
        self.endpoint = endpoint
        self.access = access
        self.credentials: Credentials | None = access.login(endpoint)
        self._wire = Wire(endpoint, access)
        self._known: Authentication | None = None
        self._base = ""
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close all connections."""
        self._wire.close()

    @property
    def base(self) -> str:
        """``https://host``; ``http://`` by choice, or on a loopback address that does not speak TLS."""
        with self._lock:
            if not self._base:
                host, plain = self.endpoint.host, self.endpoint.plain_http
                if plain is None:
                    plain = not self._speaks_tls()
                self._base = f"{'http' if plain else 'https'}://{host}"
            return self._base

    def request(
        self,
        method: str,
        location: str,
        *,
        scope: str,
        ok: tuple[int, ...] = (200,),
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        patient: bool = True,
    ) -> RegistryAnswer:
        """One answer with a status in ``ok``, read in full.

        Args:
            method: HTTP method.
            location: Path, or a URL that was resolved.
            scope: What the request needs, as a token scope (``repository:NAME:pull``).
            ok: Statuses that are answers; all others are raised.
            headers: Of the request.
            body: Gives the request's body anew for each try.
            patient: Try again where that can help.

        Raises:
            RegistryError: One of its subclasses, by what was refused.
        """
        asked = self._asked(method, location, headers, body)
        return self._tried(asked, scope, ok, patient=patient, use=lambda response, _: read(response))

    @contextlib.contextmanager
    def stream(
        self, method: str, location: str, *, scope: str, ok: tuple[int, ...] = (200,), headers: Mapping[str, str] | None = None
    ) -> Iterator[httpx.Response]:
        """As :meth:`request`, with the answer's body still to be read."""
        asked = self._asked(method, location, headers, None)
        response, held = self._tried(asked, scope, ok, use=lambda response, stack: (response, stack.pop_all()))
        with held:
            yield response

    def _asked(self, method: str, location: str, headers: Mapping[str, str] | None, body: Body | None) -> Outgoing:
        url = self.base + location if location.startswith("/") else location
        return Outgoing(method=method, url=url, headers=headers or {}, body=body)

    def _tried(
        self,
        asked: Outgoing,
        scope: str,
        ok: tuple[int, ...],
        *,
        use: Callable[[httpx.Response, contextlib.ExitStack], _T],
        patient: bool = True,
    ) -> _T:
        """What ``use`` makes of the first answer with a status in ``ok``; it may keep the answer open by the stack."""
        failures = Failures(self.access.retry, None if patient else 1)
        while True:
            try:
                with contextlib.ExitStack() as stack:
                    response = stack.enter_context(self._authorised(asked, scope))
                    if response.status_code in ok:
                        return use(response, stack)
                    answer = read(response)
            except UnreachableError as error:
                if not error.passing or not failures.again():
                    raise refusals.given_up(error, failures.count) from error
                continue
            if answer.status not in STATUSES or not failures.again(answer.headers.get("Retry-After", "")):
                raise refusals.refusal(answer, asked.method, self.endpoint, self.credentials, scope, failures.count)

    @contextlib.contextmanager
    def _authorised(self, asked: Outgoing, scope: str) -> Iterator[httpx.Response]:
        """The answer, after each login that the registry's challenges allow was tried."""
        with contextlib.ExitStack() as stack:
            login = self._login()
            sent = login.header(scope) if self._is_home(asked.url) else ""
            response = stack.enter_context(self._wire.stream(replace(asked, authorization=sent)))
            if self._is_challenge(response):
                challenges = parse_challenges(response.headers.get_list("WWW-Authenticate"))
                for header in login.answers(challenges, scope, sent):
                    _finish(response)
                    stack.close()
                    response = stack.enter_context(self._wire.stream(replace(asked, authorization=header)))
                    if not self._is_challenge(response):
                        break
            yield response

    def _login(self) -> Authentication:
        base = self.base
        with self._lock:
            if self._known is None:
                self._known = Authentication(TokenSource(wire=self._wire, home=base, credentials=self.credentials))
            return self._known

    def _is_home(self, url: str) -> bool:
        return locations.origin(url) == locations.origin(self.base)

    def _is_challenge(self, response: httpx.Response) -> bool:
        """Whether the registry itself asks who we are; a host that it redirected to has no say in that."""
        return response.status_code == 401 and self._is_home(str(response.url))

    def _speaks_tls(self) -> bool:
        try:
            self._wire.ask(Outgoing(method="GET", url=f"https://{self.endpoint.host}/v2/"))
        except UnreachableError as error:
            return distrusted(error)  # a certificate that is not trusted is still TLS
        return True


def _finish(response: httpx.Response) -> None:
    """Read a short body to its end, so that the connection can be used again."""
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) <= _SHORT_BYTES:
        response.read()
