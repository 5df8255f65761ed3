"""Authentication challenges as RFC 9110 writes them, and as registries do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_ci.registry.challenges import Challenge, parse_challenges

BEARER = Challenge(
    scheme="bearer", parameters={"realm": "https://t/token", "service": "s", "scope": "repository:a/b:pull,push"}
)
TEXT = 'Bearer realm="https://t/token",service="s",scope="repository:a/b:pull,push"'
BASIC = Challenge(scheme="basic", parameters={"realm": "x"})


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([TEXT], [BEARER]),
        ([TEXT.replace(",s", " , s").replace("realm=", "realm = ")], [BEARER]),
        ([TEXT.replace("Bearer", "bEARER").replace("realm", "Realm").replace("scope", "SCOPE")], [BEARER]),
        (['Basic realm="x"', TEXT], [BASIC, BEARER]),
        (['Basic realm="x", ' + TEXT], [BASIC, BEARER]),
        ([TEXT + ', Basic realm="x"'], [BEARER, BASIC]),
        (['Negotiate, Basic realm="x"'], [Challenge(scheme="negotiate"), BASIC]),
        (["Negotiate", 'Basic realm="x"'], [Challenge(scheme="negotiate"), BASIC]),
        (["Negotiate YWJj==, Basic realm=x"], [Challenge(scheme="negotiate", token68="YWJj=="), BASIC]),
        ([',, Basic realm="x",,, Negotiate,'], [BASIC, Challenge(scheme="negotiate")]),
        (
            ['Basic realm="a \\"b\\", c=d, Bearer realm=e\\\\"'],
            [Challenge(scheme="basic", parameters={"realm": 'a "b", c=d, Bearer realm=e\\'})],
        ),
        # RFC 9110, section 11.6.1.
        (
            ['Basic realm="simple", Newauth realm="apps", type=1, title="Login to \\"apps\\""'],
            [
                Challenge(scheme="basic", parameters={"realm": "simple"}),
                Challenge(scheme="newauth", parameters={"realm": "apps", "type": "1", "title": 'Login to "apps"'}),
            ],
        ),
        (['Basic realm="first", realm="second"'], [Challenge(scheme="basic", parameters={"realm": "first"})]),
        (['Basic realm=""'], [Challenge(scheme="basic", parameters={"realm": ""})]),
        (["", " , ", "="], []),
        (['Basic realm="never closed'], [Challenge(scheme="basic")]),
    ],
)
def test_challenges_are_read_from_one_header_and_from_several(headers: list[str], expected: list[Challenge]) -> None:
    assert list(parse_challenges(headers)) == expected


_NAMES = st.text(st.sampled_from("abcxyz-_.!#0189"), min_size=1, max_size=8)
_VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)
_PARAMETERS = st.dictionaries(_NAMES, _VALUES, min_size=1, max_size=4)


@pytest.mark.slow
@given(st.lists(st.tuples(_NAMES, _PARAMETERS), max_size=5), st.booleans())
def test_what_is_written_by_the_grammar_is_read_back(written: list[tuple[str, dict[str, str]]], joined: bool) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    lines = [f"{scheme} " + ", ".join(f"{name}={quoted(value)}" for name, value in told.items()) for scheme, told in written]
    found = parse_challenges([", ".join(lines)] if joined else lines)
    assert [(each.scheme, each.parameters) for each in found] == written
