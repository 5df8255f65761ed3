"""Nothing of a request becomes a header of the response: a line end in it stays text, whether raw or decoded on the way."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence

import pytest

from vllm_ci.suites.findings import Finding
from vllm_ci.suites.raw import RawResponse
from vllm_ci.suites.security.door import Door, together
from vllm_ci.suites.security.reflecting import PLACES, Mirror, woven

Judge = Callable[[Iterable[Finding]], None]

_ASKS = ("models", "chat", "stream")


@pytest.mark.parametrize("place", PLACES)
def test_nothing_of_a_request_becomes_a_response_header(door: Door, judge: Judge, place: str) -> None:
    """A line end that is decoded into a response header begins another header, or another response (CWE-113)."""
    word = f"x-injected-{secrets.token_hex(6)}"
    asks = _ASKS[1:] if place.startswith("field:") else _ASKS if place.startswith("header:") else _ASKS[:1]
    tried = [(mirror, ends) for ask in asks for mirror in [Mirror(door=door, place=place, ask=ask)] for ends in mirror.groups]

    def look(each: tuple[Mirror, Sequence[str]]) -> RawResponse:
        mirror, ends = each
        return mirror.sent(woven(ends, lambda end: f"{word}-{end}: 1"))

    found: dict[str, Finding] = {}
    for (mirror, ends), answer in zip(tried, together(look, tried), strict=True):
        for end in (end for end in ends if f"{word}-{end}" in answer.headers):
            message = f"a line end ({end}) in {place} of a request begins a header of its own in the response ({mirror.ask})"
            found.setdefault(end, Finding(id=f"header-injection:{place}:{end}", severity="high", message=message))
    judge(found.values())
