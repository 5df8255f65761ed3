"""Addresses that a server names: ``Location``, ``Link`` and token realms, resolved by RFC 3986 and looked at before use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from urllib.parse import SplitResult, quote, urldefrag, urljoin, urlsplit

from vllm_ci.domain.errors import RegistryError

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9.])?|\[[0-9A-Fa-f:.]+\]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_LOGIN = re.compile(r"//[^/]*@")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Every character that RFC 3986 has a meaning for; what else a server writes is percent-encoded.
_KEPT = "!#$%&'()*+,-./:;=?@[]_~"
_LINK = re.compile(r"\s*<([^>]*)>")
_LINK_PARAMETER = re.compile(r"""(?:\s*;)+\s*([^\s=;,"<>]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*)))?""")


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of a URL: what a login belongs to (RFC 6454).

    Raises:
        RegistryError: It is not an absolute ``http`` or ``https`` URL that can be used.
    """
    parts = _split(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS[parts.scheme]


def resolve(base: str, location: str) -> str:
    """The absolute URL that ``location`` means in an answer to a request of ``base``; without its fragment.

    Raises:
        RegistryError: It cannot be used, or leads from ``https`` to ``http``.
    """
    target = absolute(_joined(base, _cleaned(location)))
    if base.lower().startswith("https:") and target.startswith("http:"):
        raise RegistryError(
            f"{urlsplit(base).netloc} redirects from https to http: {shown(target)}",
            why="the registry may be behind a proxy and not know that it is reached by https",
            remedy="let the proxy send X-Forwarded-Proto and Host, or configure the registry's external URL",
        )
    return target


def _joined(base: str, location: str) -> str:
    """As RFC 3986 has it: Python's urljoin takes "https:x" for a relative reference, which that does not (section 5.2.2)."""
    if _SCHEME.match(location):
        return location
    try:
        return urljoin(base, location)
    except ValueError as error:
        raise _unusable(location) from error


def absolute(url: str) -> str:
    """``url`` itself, with its scheme in lower case and without its fragment, when it is one that can be asked.

    Raises:
        RegistryError: It is not an absolute ``http`` or ``https`` URL, or holds a login.
    """
    url = _cleaned(url)
    scheme = _split(url).scheme
    return scheme + urldefrag(url).url[len(scheme) :]


def with_query(url: str, query: str) -> str:
    """``url`` with something more in its query."""
    parts = urlsplit(url)
    return parts._replace(query=f"{parts.query}&{query}" if parts.query else query, fragment="").geturl()


def shown(url: str) -> str:
    """``url`` for a message: without its query, which may hold a signature, and without a login."""
    return _LOGIN.sub("//", url.partition("?")[0])[:200]


def next_link(headers: Iterable[str]) -> str | None:
    """The target of the link with the relation ``next`` (RFC 8288), which may be relative; ``None`` when there is none.

    Args:
        headers: All ``Link`` headers of an answer.
    """
    for header in headers:
        for target, relations in _links(header):
            if "next" in relations:
                return target
    return None


def _links(header: str) -> Iterator[tuple[str, list[str]]]:
    position = 0
    while match := _LINK.match(header, position):
        target, position = match[1], match.end()
        relations: list[str] = []
        while parameter := _LINK_PARAMETER.match(header, position):
            position = parameter.end()
            if parameter[1].lower() == "rel" and not relations:
                relations = (parameter[2] or parameter[3] or "").lower().split()
        yield target, relations
        position = header.find(",", position) + 1 or len(header)


def _cleaned(text: str) -> str:
    """Python's urllib drops some control characters unseen, which would make another address of it."""
    if _CONTROL.search(text):
        raise RegistryError(f"a server sent an address with control characters: {shown(text)!r}")
    return quote(text.strip(" "), safe=_KEPT, errors="replace")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        authority = parts.netloc.removesuffix(f":{parts.port}") if parts.port is not None else parts.netloc.removesuffix(":")
        usable = parts.scheme in _PORTS and parts.port != 0 and _HOST.fullmatch(authority)
    except ValueError as error:
        raise _unusable(url) from error
    if not usable:
        raise _unusable(url)
    return parts


def _unusable(url: str) -> RegistryError:
    return RegistryError(
        f"a server sent an address that cannot be used: {shown(url)!r}",
        why="only http and https addresses with a host, and without a login, are used",
        remedy="check the registry's configuration",
    )
