"""JSON that every reader takes."""

from __future__ import annotations

import json
import math
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_ci.domain.plain_json import dumps

VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=12,
)


def no_constant(name: str) -> NoReturn:
    raise AssertionError(f"{name} is not JSON")


@pytest.mark.slow
@given(VALUES)
def test_any_document_can_be_read_by_a_strict_reader_from_utf_8(value: object) -> None:
    text = dumps({"found": value}).encode("utf-8")
    json.loads(text, parse_constant=no_constant)


def test_numbers_that_json_does_not_have_are_null_and_halves_of_pairs_stay_escapes() -> None:
    assert json.loads(dumps({"a": (1.5, math.nan, {"b": -math.inf})})) == {"a": [1.5, None, {"b": None}]}
    assert dumps("x\ud800", indent=None) == '"x\\ud800"'
