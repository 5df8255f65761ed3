"""Lists that a registry gives in pages, each naming the next one in a ``Link`` header (RFC 8288)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vllm_ci.domain.errors import RegistryError
from vllm_ci.registry import locations
from vllm_ci.registry.answer import RegistryAnswer
from vllm_ci.registry.session import Session

# A page holds one entry at least; a list of more is a registry that counts pages without an end.
_MAX_PAGES = 10_000


def pages(session: Session, path: str, *, scope: str, headers: Mapping[str, str] | None = None) -> Iterator[RegistryAnswer]:
    """Every page of a list, to its end.

    Args:
        session: Connection to the registry.
        path: Of the first page.
        scope: Token scope.
        headers: Of each request.

    Raises:
        RegistryError: A page is refused, or the pages lead elsewhere or in a circle: a list that is cut short would hide what
            follows, so it is no list.
    """
    seen: set[str] = set()
    place = path
    while True:
        answer = session.request("GET", place, scope=scope, headers=headers)
        yield answer
        seen |= {place, answer.url}
        target = locations.next_link(answer.headers.get_list("Link"))
        if target is None:
            return
        place = locations.resolve(answer.url, target)
        if locations.origin(place) != locations.origin(session.base):
            raise _astray(answer.host, f"the next page is on another host: {locations.shown(place)}")
        if place in seen or len(seen) > 2 * _MAX_PAGES:
            page = place.removeprefix(session.base)[:200]
            raise _astray(answer.host, f"page {page} is repeated, or there are more than {_MAX_PAGES} pages")


def _astray(host: str, why: str) -> RegistryError:
    return RegistryError(
        f"{host} returned a list whose pages cannot be followed to the end",
        why=why,
        remedy="check the registry, and the external URL that it and its proxy are configured with",
    )
