from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_ci.domain.plain import excerpt, one_line, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\n\ttext", "plain\n\ttext"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\rb\x08", "a\\x0db\\x08"),
        ("line\r\nend", "line\nend"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\ud800", "\\ud800"),
        ("naïve 日本 👩\u200d💻", "naïve 日本 👩\u200d💻"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(alphabet=st.characters()))
def test_visible_text_has_no_control_characters(text: str) -> None:
    assert not [each for each in visible(text) if unicodedata.category(each) in ("Cc", "Cs") and each not in "\n\t"]


@given(st.text(), st.integers(min_value=1, max_value=50))
def test_one_line_is_one_line_that_is_not_too_long(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit
    assert len(line.splitlines()) <= 1


def test_what_is_cut_off_is_marked() -> None:
    assert one_line("a  b\nc", 5) == "a b c"
    assert one_line("abcdef", 5) == "abcd…"
    assert excerpt("abc\ndef", 100) == "abc\ndef"
    assert excerpt("abcdef", 4) == "abcd… (2 more characters)"
