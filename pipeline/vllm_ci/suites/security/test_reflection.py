"""Nothing of a request becomes a header of the response: a line end in it stays text, whether raw or decoded on the way."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable

import pytest

from vllm_ci.suites.findings import Finding
from vllm_ci.suites.raw import RawResponse
from vllm_ci.suites.security.door import Door, together
from vllm_ci.suites.security.reflecting import LINE_ENDS, PLACES, Mirror

Judge = Callable[[Iterable[Finding]], None]

_ASKS = ("models", "chat", "stream")


@pytest.mark.parametrize("place", PLACES)
def test_nothing_of_a_request_becomes_a_response_header(door: Door, judge: Judge, place: str) -> None:
    """A line end that is decoded into a response header begins another header, or another response (CWE-113)."""
    word = f"x-injected-{secrets.token_hex(6)}"
    mirrors = [Mirror(door=door, place=place, ask=ask) for ask in _ASKS]
    if place in ("path", "query", "method") or place.startswith("field:"):
        mirrors = mirrors[1:] if place.startswith("field:") else mirrors[:1]
    tried = [(mirror, end) for mirror in mirrors for end in LINE_ENDS if mirror.fits(end)]

    def look(each: tuple[Mirror, str]) -> RawResponse:
        mirror, end = each
        return mirror.sent(f"id{LINE_ENDS[end]}{word}: 1", end)

    found: dict[str, Finding] = {}
    for (mirror, end), answer in zip(tried, together(look, tried), strict=True):
        if word in answer.headers:
            message = f"a line end ({end}) in {place} of a request begins a header of its own in the response ({mirror.ask})"
            found.setdefault(end, Finding(id=f"header-injection:{place}:{end}", severity="high", message=message))
    judge(found.values())
