"""HTTP exchanges with the hosts that a registry names: redirects, logins that stay at home, and errors that are our own."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import httpx

from vllm_ci import __version__
from vllm_ci.domain.errors import ConfigError
from vllm_ci.registry import locations
from vllm_ci.registry.access import Access, RegistryEndpoint, is_loopback
from vllm_ci.registry.answer import RegistryAnswer, read
from vllm_ci.registry.errors import RefusedError, UnreachableError

Body = Callable[[], bytes | Iterable[bytes]]

_MAX_REDIRECTS = 10
_KEEPING_METHOD = frozenset({301, 302, 307, 308})


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """A request.

    Attributes:
        method: HTTP method.
        url: In full.
        headers: Without ``Authorization``.
        body: Gives the body anew for each try.
        authorization: For the origin of ``url`` only; a redirect to another one goes without it.
        secret: The body is a secret: it is not sent on to another origin.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    authorization: str = field(default="", repr=False)
    secret: bool = False


class Wire:
    """Connections to one registry and to the hosts it names, one pool for each origin; safe for threads.

    Args:
        endpoint: The registry.
        access: How hosts are reached.
    """

    def __init__(self, endpoint: RegistryEndpoint, access: Access) -> None:
        self.endpoint = endpoint
        self.access = access
        self._clients: dict[tuple[str, str, int], httpx.Client] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    def ask(self, asked: Outgoing) -> RegistryAnswer:
        """As :meth:`stream`, with the answer read in full."""
        with self.stream(asked) as response:
            return read(response)

    @contextlib.contextmanager
    def stream(self, asked: Outgoing) -> Iterator[httpx.Response]:
        """The answer after redirects, its body still to be read; without any retry.

        301, 302, 307 and 308 repeat the request as it is, body included: RFC 9110 (15.4) lets a client make a GET of a POST
        after the first two, which would be no upload any more. 303 asks for a GET, and is followed only when it was one.

        Raises:
            UnreachableError: No answer came.
            RegistryError: A redirect leads where no request may go, or nowhere.
        """
        with _translated(asked.url):
            response = self._followed(asked)
        try:
            with _translated(str(response.url)):
                yield response
        finally:
            response.close()

    def _followed(self, asked: Outgoing) -> httpx.Response:
        home = locations.origin(asked.url)
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._once(asked, home)
            location = response.headers.get("Location", "")
            if not location or not _is_followed(response.status_code, asked.method):
                return response
            response.close()
            asked = replace(asked, url=locations.resolve(asked.url, location))
            if asked.secret and locations.origin(asked.url) != home:
                raise RefusedError(
                    f"{home[1]} redirects a login to {urlsplit(asked.url).netloc}",
                    why="logins are never sent to another host",
                    remedy="check the registry's token realm",
                )
        raise RefusedError(
            f"{urlsplit(asked.url).netloc} redirects endlessly",
            why=f"{_MAX_REDIRECTS} redirects were followed",
            remedy="check the registry's and its proxy's configuration",
        )

    def _once(self, asked: Outgoing, home: tuple[str, str, int]) -> httpx.Response:
        place = locations.origin(asked.url)
        headers = dict(asked.headers)
        if asked.authorization and place == home:
            headers["Authorization"] = asked.authorization
        client = self._client(place)
        content = asked.body() if asked.body else None
        return client.send(
            client.build_request(asked.method, asked.url, headers=headers, content=content), stream=True, follow_redirects=False
        )

    def _client(self, place: tuple[str, str, int]) -> httpx.Client:
        with self._lock:
            if place not in self._clients:
                self._clients[place] = new_client(place, self.access)
            return self._clients[place]


def new_client(place: tuple[str, str, int], access: Access) -> httpx.Client:
    """A pool of connections to one origin, with the trust, the proxy and the client certificate that are meant for it.

    Raises:
        ConfigError: A certificate or a proxy variable cannot be used.
    """
    scheme, name, port = place
    host = f"[{name}]" if ":" in name else name
    full = host if port == {"http": 80, "https": 443}[scheme] else f"{host}:{port}"
    try:
        return httpx.Client(
            verify=access.tls(full) if scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            timeout=httpx.Timeout(access.timeout_s),
            limits=httpx.Limits(max_connections=access.parallel + 4, max_keepalive_connections=access.parallel + 4),
            # As Go's clients do: a proxy is never asked for this machine.
            trust_env=not is_loopback(host),
            headers={"User-Agent": f"vllm-ci/{__version__}", "Accept-Encoding": "identity"},
        )
    except (httpx.InvalidURL, ValueError, ImportError) as error:
        raise ConfigError(
            f"a proxy variable cannot be used: {error}", remedy="check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY"
        ) from error


def distrusted(error: BaseException | None) -> bool:
    """Whether a certificate was refused: trying again, or without TLS, must not be the answer."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_followed(status: int, method: str) -> bool:
    return status in _KEEPING_METHOD or (status == 303 and method in ("GET", "HEAD"))


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    """Errors of httpx, of the socket and of odd names as our own."""
    host = urlsplit(url).netloc
    try:
        yield
    except (httpx.LocalProtocolError, httpx.UnsupportedProtocol) as error:
        raise RefusedError(f"a request to {host} could not be sent: {error}", status=400) from error
    except httpx.TransportError as error:
        raise _unreachable(host, error) from error
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        raise RefusedError(
            f"{host} sent an answer that cannot be read: {type(error).__name__}: {error}",
            remedy="check the registry and any proxies",
        ) from error
    except UnicodeError as error:  # from Python's IDNA codec, for a label that is empty or too long
        raise UnreachableError(f"{host} is not the name of a host: {error}", remedy="check the name") from error


def _unreachable(host: str, error: httpx.TransportError) -> UnreachableError:
    if distrusted(error):
        return UnreachableError(
            f"the certificate of {host} is not trusted: {error}",
            why="its certificate authority is not trusted on this machine",
            remedy="set VLLM_CI_REGISTRY_CA to the CA file, or put it into certs.d as for docker and podman",
        )
    return UnreachableError(
        f"{host} does not answer: {type(error).__name__}: {error}",
        why="it is down, cannot be reached from here, or broke the connection",
        remedy="check name, network and proxy variables; if it has no TLS, add it to VLLM_CI_REGISTRY_PLAIN_HTTP",
        passing=True,
    )
