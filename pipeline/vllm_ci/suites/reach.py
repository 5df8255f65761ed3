"""The first contact with a server: can it be reached, is it an OpenAI-compatible API, and does it take the key?

One request each, about a second in all, with one message that says what to change.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlsplit

import httpx

from vllm_ci.suites.client import shown
from vllm_ci.suites.ends import UNREACHABLE
from vllm_ci.suites.verdicts import Errored

TIMEOUT_S = 10.0
"""Time for one response of the first contact."""
CONNECT_S = 5.0
"""Time for one connection; a black hole (a firewall that drops packets) is found after it."""
_KEY = "--api-key-env NAME (of pytest: --vllm-api-key-env NAME)"
_NAMES_SHOWN = 5
_FORMAL = range(80, 94)
"""Codes of OpenSSL for what only a strict check refuses: X509_V_ERR_PATHLEN_INVALID_FOR_NON_CA and those after it."""


class UnreachableError(Errored):
    """The server cannot be tested at all.

    Args:
        message: What happened.
        why: Why that is likely.
        remedy: What to change.
    """

    cause: ClassVar[Mapping[str, str]] = {"id": UNREACHABLE}

    def __init__(self, message: str, *, why: str = "", remedy: str = "") -> None:
        super().__init__("; ".join(part for part in (message, why, remedy) if part))
        self.message, self.why, self.remedy = message, why, remedy

    def again(self) -> UnreachableError:
        """The same error, to be raised once more: one object would keep, and show, the traceback of each time."""
        return UnreachableError(self.message, why=self.why, remedy=self.remedy)


@dataclass(frozen=True, kw_only=True)
class Reached:
    """The server's list of models.

    Attributes:
        cards: Cards of the listed models, by name; empty if the server has no list.
        headers: Headers of the answer.
    """

    cards: Mapping[str, Mapping[str, Any]]
    headers: Mapping[str, str]


def base_url(url: str) -> str:
    """The URL that paths like ``/v1/models`` are appended to: ``url`` without a slash or ``/v1`` at its end.

    ``OPENAI_BASE_URL`` holds ``http://host/v1`` by convention, and a path prefix may come before it.

    Raises:
        UnreachableError: It is not an http or https URL.
    """
    try:
        parts = urlsplit(url.strip())
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment:
        raise UnreachableError(
            f"invalid server URL: {url!r}", remedy="give scheme, host and port, for example http://127.0.0.1:8000"
        )
    path = parts.path.rstrip("/")
    if path.rpartition("/")[2] == "v1":
        path = path.rpartition("/")[0].rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}"


def reach(http: httpx.Client, *, model: str = "") -> Reached:
    """Request the list of models.

    Args:
        http: HTTP client with base URL and key.
        model: Name of the model to use; a server without a list is accepted if it is given.

    Raises:
        UnreachableError: The server cannot be tested; the message says why.
    """
    try:
        answer = http.get("/v1/models", timeout=httpx.Timeout(TIMEOUT_S, connect=CONNECT_S))
    except httpx.TransportError as error:
        raise explained(error, str(http.base_url)) from error
    keyed = bool(http.headers.get("authorization"))
    if answer.is_redirect:
        target = answer.headers.get("location", "")
        raise UnreachableError(
            f"the server redirects GET /v1/models ({answer.status_code}) to {target or 'nowhere'}",
            remedy=f"test the URL that it redirects to: {target.partition('/v1/models')[0] or target}",
        )
    if answer.status_code in _KEY_REFUSED:
        raise _key_refused("GET /v1/models", answer, keyed=keyed)
    cards = cards_of(answer)
    if cards is None:
        if model and answer.status_code in (404, 405, 501):
            return Reached(cards={}, headers=answer.headers)
        raise _no_api(http, answer)
    return Reached(cards=cards, headers=answer.headers)


def require_an_answer(http: httpx.Client, model: str, *, given: bool, listed: int) -> None:
    """Check that the model answers one small request; a slow or broken answer is for the suites to judge.

    Args:
        http: HTTP client with base URL and key.
        model: Name of the model.
        given: The user chose it.
        listed: Number of listed models.

    Raises:
        UnreachableError: It answers neither chat, completions nor embeddings, or not without a key.
    """
    said: list[httpx.Response] = []
    for path, body in SMALLEST.items():
        try:
            answer = http.post(path, json={"model": model, **body}, timeout=httpx.Timeout(TIMEOUT_S, connect=CONNECT_S))
        except httpx.TransportError:
            return
        if answer.status_code < 400 or answer.status_code >= 500:
            return
        said.append(answer)
    keyed = bool(http.headers.get("authorization"))
    if locked := next((each for each in said if each.status_code in _KEY_REFUSED), None):
        raise _key_refused(f"POST {locked.request.url.path}", locked, keyed=keyed)
    raise no_surface(model, [f"{each.request.url.path}: {_line(each)}" for each in said[:2]], given=given, listed=listed)


def no_surface(model: str, said: Sequence[str], *, given: bool, listed: int) -> UnreachableError:
    """The error for a model that answers nothing."""
    which = "" if given or listed < 2 else f" (the first of {listed} listed models)"
    return UnreachableError(
        f"the model {model!r}{which} answers neither chat nor completions: {'; '.join(said)}",
        remedy="choose another one with --model" if listed != 1 else "look at the server's log",
    )


def choose(cards: Mapping[str, Any], model: str) -> str:
    """The model to use: the given one, or the first listed one.

    Raises:
        UnreachableError: It is not listed, or none is.
    """
    if model and (model in cards or not cards):
        return model
    some = ", ".join(list(cards)[:_NAMES_SHOWN]) + (
        f" and {len(cards) - _NAMES_SHOWN} more" if len(cards) > _NAMES_SHOWN else ""
    )
    if model:
        raise UnreachableError(f"the server has no model {model!r}; it lists {some}", remedy="choose one of these with --model")
    if not cards:
        raise UnreachableError("the server lists no models", remedy="load a model, or name one with --model")
    return next(iter(cards))


def cards_of(answer: httpx.Response) -> dict[str, Mapping[str, Any]] | None:
    """Cards of a list of models (OpenAI API reference, "List models"); ``None`` if the answer is no such list."""
    if answer.status_code != 200:
        return None
    try:
        listed = answer.json()
    except ValueError:
        return None
    entries = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(entries, list):
        return None
    return {entry["id"]: entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)}


def explained(error: Exception, url: str) -> UnreachableError:
    """The message for an error of the connection, from the types of its causes."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    causes = tuple(_causes(error))
    certificate = next((each for each in causes if isinstance(each, ssl.SSLCertVerificationError)), None)
    if certificate is not None:
        said = certificate.verify_message or certificate
        if certificate.verify_code in _FORMAL:
            return UnreachableError(
                f"a certificate of {host} does not follow RFC 5280: {said}",
                why="Python since 3.13, and the OpenAI SDK with it, refuse it, although other clients may accept it",
                remedy="make the certificate, or that of its authority, again with this extension",
            )
        return UnreachableError(
            f"the certificate of {host} is not trusted: {said}",
            remedy="give the certificate of its authority with --ca-file FILE or the variable SSL_CERT_FILE",
        )
    tls = next((each for each in causes if isinstance(each, ssl.SSLError)), None)
    if tls is not None:
        return UnreachableError(
            f"no TLS connection to {host}:{port}: {tls}", remedy="if the server speaks plain HTTP, use http:// in the URL"
        )
    return _not_connected(causes, url, host) or UnreachableError(
        f"{url} does not answer GET /v1/models in HTTP: {_plain(causes)}",
        remedy="if the server speaks TLS, use https:// in the URL" if parts.scheme == "http" else "look at the server's log",
    )


def _not_connected(causes: tuple[BaseException, ...], url: str, host: str) -> UnreachableError | None:
    if any(isinstance(each, httpx.ConnectTimeout) for each in causes):
        return UnreachableError(
            f"{url} does not accept connections: no answer within {CONNECT_S:.0f} s",
            why="a firewall drops the packets, or the address is not used",
            remedy=_LISTENING,
        )
    if any(isinstance(each, httpx.ReadTimeout) for each in causes):
        return UnreachableError(
            f"{url} accepts connections, but does not answer GET /v1/models within {TIMEOUT_S:.0f} s",
            remedy="wait until the server is ready, and look at its log",
        )
    if any(isinstance(each, socket.gaierror) for each in causes):
        return UnreachableError(f"the host name {host} is not known: {_plain(causes)}", remedy="check the host name in the URL")
    if any(isinstance(each, httpx.ConnectError) for each in causes):
        return UnreachableError(f"{url} cannot be reached: {_plain(causes)}", remedy=_LISTENING)
    return None


_KEY_REFUSED = (401, 403, 407)
SMALLEST: Mapping[str, Mapping[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1},
    "/v1/completions": {"prompt": "hello", "max_tokens": 1},
    "/v1/embeddings": {"input": "hello"},
}
"""The smallest valid requests by path, without the model."""
_LISTENING = "check the host and port, and that the server is running"


def _key_refused(what: str, answer: httpx.Response, *, keyed: bool) -> UnreachableError:
    return UnreachableError(
        f"the server {'refuses the API key' if keyed else 'requires an API key'}: {what} is answered {_line(answer)}",
        remedy=f"check the value of the variable of {_KEY}" if keyed else f"give the variable with the key by {_KEY}",
    )


def _no_api(http: httpx.Client, answer: httpx.Response) -> UnreachableError:
    kind = answer.headers.get("content-type", "no content type").partition(";")[0]
    said = " ".join(answer.text.split())[:120]
    found = f"GET /v1/models is answered {answer.status_code} ({kind}) {said}".rstrip()
    return UnreachableError(f"no OpenAI-compatible API at {http.base_url}: {found}", remedy=_remedy(answer))


def _remedy(answer: httpx.Response) -> str:
    if answer.status_code >= 500:
        return "wait until the server is ready, and look at its log"
    if answer.status_code == 400 and "HTTPS" in answer.text.upper() and answer.request.url.scheme == "http":
        return "the port speaks TLS: use https:// in the URL"
    if answer.status_code in (404, 405, 501):
        return (
            "check the path of the URL, to which /v1/models is appended; "
            "if the server has no list of models, name one with --model"
        )
    return "check the path of the URL: /v1/models is appended to it"


def _line(answer: httpx.Response) -> str:
    return " ".join(shown(answer).split())


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _plain(causes: tuple[BaseException, ...]) -> str:
    return next((str(each) for each in causes if str(each)), type(causes[0]).__name__)
