"""A conversation with one registry host: authentication, retries, and errors that say which of them it is."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from vllm_ci import __version__
from vllm_ci.registry.access import Access, Endpoint, is_loopback
from vllm_ci.registry.credentials import Credentials, find_credentials
from vllm_ci.registry.errors import (
    ForbiddenError,
    NameUnknownError,
    NotFoundError,
    RefusedError,
    UnauthorizedError,
    UnreachableError,
    UnsupportedError,
)
from vllm_ci.registry.retry import STATUSES
from vllm_ci.registry.tokens import Tokens

Body = Callable[[], bytes | Iterable[bytes]]


@dataclass(frozen=True, kw_only=True)
class _Request:
    method: str
    url: str
    scope: str
    headers: Mapping[str, str]
    body: Body | None


class Session:
    """Requests to one endpoint; safe for threads.

    Args:
        endpoint: The registry host, and the repository that credentials are looked up for.
        access: How it is reached.
    """

    def __init__(self, endpoint: Endpoint, access: Access) -> None:
        self.endpoint = endpoint
        self.access = access
        host = endpoint.host
        self.credentials: Credentials | None = access.credentials.get(host) or find_credentials(host, endpoint.path)
        self._client = httpx.Client(
            verify=access.tls(host) if endpoint.plain_http is not True else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            timeout=httpx.Timeout(access.timeout_s),
            limits=httpx.Limits(max_connections=access.parallel + 4, max_keepalive_connections=access.parallel + 4),
            # As Go's clients do: a proxy is never asked for this machine.
            trust_env=not is_loopback(host),
            headers={"User-Agent": f"vllm-ci/{__version__}", "Accept-Encoding": "identity"},
        )
        self._tokens = Tokens(self._client, host, self.credentials)
        self._base = ""
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

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

    def url(self, location: str) -> str:
        """``location`` in full; one that a server sent may be relative."""
        return location if "://" in location else self.base + location

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
    ) -> httpx.Response:
        """One answer with a status in ``ok``, read in full.

        Args:
            method: HTTP method.
            location: Path or URL.
            scope: What the request needs, as a token scope (``repository:NAME:pull``).
            ok: Statuses that are answers; all others are raised.
            headers: Of the request.
            body: Gives the request's body anew for each try.
            patient: Try again after what trying again can mend.

        Raises:
            RegistryError: One of its subclasses, by what was refused.
        """
        with self.stream(method, location, scope=scope, ok=ok, headers=headers, body=body, patient=patient) as response:
            response.read()
            return response

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        location: str,
        *,
        scope: str,
        ok: tuple[int, ...] = (200,),
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        patient: bool = True,
    ) -> Iterator[httpx.Response]:
        """As :meth:`request`, with the answer's body still to be read."""
        asked = _Request(method=method, url=self.url(location), scope=scope, headers=headers or {}, body=body)
        response = self._answered(asked, ok, patient=patient)
        try:
            yield response
        finally:
            response.close()

    def _answered(self, asked: _Request, ok: tuple[int, ...], *, patient: bool) -> httpx.Response:
        attempts = self.access.retry.attempts if patient else 1
        for failures in range(1, attempts + 1):
            try:
                response = self._authorised(asked)
            except httpx.TransportError as error:
                if failures == attempts or _hopeless(error):
                    raise self._unreachable(error, failures) from error
                self.access.retry.wait(failures)
                continue
            if response.status_code in ok:
                return response
            _read_some(response)
            if response.status_code not in STATUSES or failures == attempts:
                raise self.refusal(response, asked.scope)
            self.access.retry.wait(failures, response.headers.get("Retry-After", ""))
        raise AssertionError  # the loop returns or raises

    def _authorised(self, asked: _Request) -> httpx.Response:
        """The answer, after one challenge at most."""
        response = self._once(asked)
        if response.status_code == 401 and self._is_ours(asked.url):
            challenge = response.headers.get("WWW-Authenticate", "")
            response.read()
            if self._tokens.answer(challenge, asked.scope, plain=self.base.startswith("http:")):
                response = self._once(asked)
        return response

    def _once(self, asked: _Request) -> httpx.Response:
        headers = dict(asked.headers)
        if self._is_ours(asked.url) and (authorization := self._tokens.header(asked.scope)):
            headers["Authorization"] = authorization
        request = self._client.build_request(
            asked.method, asked.url, headers=headers, content=asked.body() if asked.body else None
        )
        # httpx drops Authorization when a redirect leads to another host (a registry's object store).
        return self._client.send(request, stream=True, follow_redirects=asked.method in ("GET", "HEAD"))

    def _is_ours(self, url: str) -> bool:
        return url.startswith(self.base + "/")

    def _speaks_tls(self) -> bool:
        try:
            self._client.get(f"https://{self.endpoint.host}/v2/")
        except httpx.TransportError as error:
            return _hopeless(error)  # a certificate that is not trusted is still TLS
        return True

    def _unreachable(self, error: httpx.TransportError, tries: int) -> UnreachableError:
        where = self.endpoint.host
        if _hopeless(error):
            return UnreachableError(
                f"the certificate of {where} is not trusted: {error}",
                why="its certificate authority is unknown here",
                remedy="name the CA file (VLLM_CI_REGISTRY_CA), or put it into certs.d as docker and podman have it",
            )
        return UnreachableError(
            f"{where} does not answer: {type(error).__name__}: {error}",
            why=f"{tries} tries failed",
            remedy="check name, network and proxy variables; if it has no TLS, name it in VLLM_CI_REGISTRY_PLAIN_HTTP",
        )

    def refusal(self, response: httpx.Response, scope: str) -> RefusedError:
        """The error that an answer stands for."""
        host, path = self.endpoint.host, self.endpoint.path
        code, said = _first_error(response)
        status = response.status_code
        kind = _kind(status, code)
        told = f"{host} answered {status}{f' {code}' if code else ''}{f': {said}' if said else ''}"
        login = f"account {self.credentials.username or 'of the token'}" if self.credentials else "without a login"
        texts = {
            UnauthorizedError: (
                f"{host} does not accept the login for {path}" if self.credentials else f"{host} wants a login for {path}",
                f"{told}; the name or password from {self.credentials.source or 'the options'} is wrong or has expired"
                if self.credentials
                else f"{told}; docker's and podman's configuration have no credentials for it",
                f"docker login {host}, or set VLLM_CI_REGISTRY_USERNAME and VLLM_CI_REGISTRY_PASSWORD",
            ),
            ForbiddenError: (
                f"{host} forbids this on {path}, {login}",
                f"{told}; the account lacks the right {scope}",
                "ask the registry's owner for it, or use another repository or account",
            ),
            NameUnknownError: (
                f"{host} knows no repository {path}",
                told,
                "check the name; some registries want it created first",
            ),
            NotFoundError: (f"{host}/{path} does not have that", told, "check the digest or tag"),
            UnsupportedError: (f"{host} does not support this on {path}", told, ""),
            UnreachableError: (f"{host} keeps failing", f"{told}, after {self.access.retry.attempts} tries", "try again later"),
            RefusedError: (f"{host} refused a request on {path}", told, "see the registry's log"),
        }
        message, why, remedy = texts[kind]
        return kind(message, why=why, remedy=remedy, status=status, code=code)


def _kind(status: int, code: str) -> type[RefusedError]:
    if status == 404:
        return NameUnknownError if code == "NAME_UNKNOWN" else NotFoundError
    if status in STATUSES:
        return UnreachableError
    known = {401: UnauthorizedError, 403: ForbiddenError, 405: UnsupportedError, 501: UnsupportedError}
    return known.get(status, RefusedError)


def _hopeless(error: BaseException) -> bool:
    """Whether a certificate was refused: trying again, or without TLS, must not be the answer."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
    return False


def _read_some(response: httpx.Response) -> None:
    """The body of a refusal; a connection that breaks within it does not hide the status."""
    with contextlib.suppress(httpx.TransportError):
        response.read()


def _first_error(response: httpx.Response) -> tuple[str, str]:
    """Code and message of the first error in a body (distribution specification, "Error Codes"); empty when it has none."""
    try:
        first: Any = response.json()["errors"][0]
        return str(first.get("code", "")), str(first.get("message", ""))[:300]
    except (ValueError, LookupError, TypeError, AttributeError, httpx.StreamError):
        return "", ""
