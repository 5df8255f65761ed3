"""Structured output matches the requested structure."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from vllm_ci.suites.client import ApiClient, Json, shown, user
from vllm_ci.suites.verdicts import inconclusive

pytestmark = pytest.mark.requires_capability("chat", "structured_output")

_SCHEMAS: dict[str, Json] = {
    "flat": {
        "type": "object",
        "properties": {"name": {"enum": ["fox", "dog"]}, "tame": {"type": "boolean"}},
        "required": ["name", "tame"],
        "additionalProperties": False,
    },
    "nested": {
        "type": "object",
        "properties": {
            "animal": {
                "type": "object",
                "properties": {"legs": {"enum": [2, 4]}},
                "required": ["legs"],
                "additionalProperties": False,
            }
        },
        "required": ["animal"],
        "additionalProperties": False,
    },
    "list": {"type": "array", "items": {"enum": ["red", "green"]}, "minItems": 2, "maxItems": 2},
    "choice": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
}


def finished(client: ApiClient, **parameters: Any) -> str:
    """The text of a complete answer; inconclusive if it was truncated."""
    answer = client.chat("Describe an animal.", temperature=0, max_tokens=200, **parameters)
    choice = answer["choices"][0]
    if choice["finish_reason"] == "length":
        inconclusive("the model did not finish its structured output within 200 tokens")
    return str(choice["message"]["content"])


@pytest.mark.parametrize("name", _SCHEMAS)
def test_output_validates_against_its_schema(client: ApiClient, blankless: Json, name: str) -> None:
    """Programs parse these answers."""
    wanted = {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": _SCHEMAS[name]}}
    text = finished(client, response_format=wanted, **blankless)
    try:
        jsonschema.validate(json.loads(text), _SCHEMAS[name])
    except (json.JSONDecodeError, jsonschema.ValidationError) as error:
        pytest.fail(f"the answer {text[:200]!r} does not match the schema: {str(error).splitlines()[0]}")


def test_a_choice_is_one_of_those_offered(client: ApiClient) -> None:
    """With vLLM's structured_outputs, the answer is exactly one of the given words."""
    text = finished(client, structured_outputs={"choice": ["red", "green", "blue"]})
    assert text in ("red", "green", "blue"), f"the answer {text!r} is not one of the choices"


def test_a_pattern_is_matched_whole(client: ApiClient) -> None:
    """With a regular expression (vLLM's structured_outputs), the whole answer matches it."""
    text = finished(client, structured_outputs={"regex": "[0-9]{3}-[a-c]{2}"})
    assert re.fullmatch("[0-9]{3}-[a-c]{2}", text), f"the answer {text!r} does not match the pattern"


@pytest.mark.parametrize(
    "wanted",
    [
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no-such-type"}}}},
        {"response_format": {"type": "no-such-format"}},
        {"structured_outputs": {"regex": "("}},
    ],
    ids=["no-schema", "bad-schema", "bad-format", "bad-pattern"],
)
def test_a_structure_that_cannot_be_is_refused(client: ApiClient, wanted: Json) -> None:
    """An invalid structure is the client's error, and the server keeps working."""
    answer = client.post("/v1/chat/completions", {"model": client.model, "messages": [user("x")], "max_tokens": 4, **wanted})
    assert answer.status_code == 400, shown(answer)
    client.works()
