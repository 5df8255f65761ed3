from __future__ import annotations

import pytest

from vllm_ci.domain.program import fill


def test_placeholders_are_filled_and_other_braces_stay() -> None:
    values = {"in.model": "/m", "out": "/o", "url.vllm": "http://h:1", "port": "1"}
    assert fill("{in.model}/x {out} {url.vllm}/v1 {port}", values) == "/m/x /o http://h:1/v1 1"
    assert fill('{"a": {"b": [1]}} {unknown} {}', {}) == '{"a": {"b": [1]}} {unknown} {}'


def test_a_placeholder_without_a_value_is_an_error() -> None:
    with pytest.raises(KeyError):
        fill("{in.weights}", {"in.model": "/m"})
