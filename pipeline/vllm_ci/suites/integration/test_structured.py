"""Structured output matches the requested structure."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from vllm_ci.suites.answers import Answer
from vllm_ci.suites.client import ApiClient, Json, shown, user
from vllm_ci.suites.findings import Finding
from vllm_ci.suites.integration.asking import EndlessStructureError, required_of_vllm, unless_refused
from vllm_ci.suites.integration.refusals import REFUSALS, Judge, crash
from vllm_ci.suites.server import ServerFacts

pytestmark = pytest.mark.requires_capability("chat")

_PATH = "/v1/chat/completions"
_LENGTHS = (200, 600)
# A real vocabulary has more than a hundred tokens of white space, which a small model may write until its answer is cut: the
# more often it took one, the less likely it becomes.
_VARIED: Json = {"frequency_penalty": 2, "presence_penalty": 2}
_SCHEMAS: dict[str, Json] = {
    "flat": {
        "type": "object",
        "properties": {"name": {"type": "string", "enum": ["fox", "dog"]}, "tame": {"type": "boolean"}},
        "required": ["name", "tame"],
        "additionalProperties": False,
    },
    "nested": {
        "type": "object",
        "properties": {
            "animal": {
                "type": "object",
                "properties": {"legs": {"type": "integer", "enum": [2, 4]}},
                "required": ["legs"],
                "additionalProperties": False,
            }
        },
        "required": ["animal"],
        "additionalProperties": False,
    },
    # OpenAI's strict mode requires an object at the root, so these two may be refused.
    "list": {"type": "array", "items": {"type": "string", "enum": ["red", "green"]}, "minItems": 2, "maxItems": 2},
    "choice": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
}


def finished(client: ApiClient, what: str, **parameters: Any) -> str:
    """The text of a complete answer; skipped where a server that is not vLLM refuses the structure.

    Raises:
        EndlessStructureError: It was truncated, at the larger of two lengths too.
    """
    answer: Answer
    for tokens in _LENGTHS:
        asked = {"messages": [user("Describe an animal.")], "temperature": 0, "max_tokens": tokens, **parameters}
        answer = unless_refused(client, _PATH, {"model": client.model, **asked}, what)
        if answer.finish_reason != "length":
            return answer.text
        parameters = {**parameters, **_VARIED}
    raise EndlessStructureError(f"the model did not finish its structured output within {_LENGTHS[-1]} tokens")


@pytest.mark.compares_answers
@pytest.mark.requires_capability("structured_output")
@pytest.mark.parametrize("name", _SCHEMAS)
def test_output_validates_against_its_schema(client: ApiClient, blankless: Json, name: str) -> None:
    """Programs parse these answers."""
    wanted = {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": _SCHEMAS[name]}}
    text = finished(client, f"the schema {name!r}", response_format=wanted, **blankless)
    try:
        jsonschema.validate(json.loads(text), _SCHEMAS[name])
    except (json.JSONDecodeError, jsonschema.ValidationError) as error:
        pytest.fail(f"the answer {text[:200]!r} does not match the schema: {str(error).splitlines()[0]}")


@pytest.mark.requires_capability("structured_output")
def test_json_mode_gives_an_object(client: ApiClient, server: ServerFacts, blankless: Json) -> None:
    """With response_format json_object, the answer is a JSON object, or the beginning of one if it is truncated."""
    body = {
        "model": client.model,
        "messages": [user("Describe an animal as JSON.")],
        "response_format": {"type": "json_object"},
        "temperature": 0,
        "max_tokens": 40,
        **blankless,
    }
    answer = unless_refused(client, _PATH, body, "json_object")
    text = answer.text.strip()
    cut = answer.finish_reason == "length"
    holds = _is_object(text) or (cut and (not text or text.startswith("{")))
    required_of_vllm(server, holds=holds, message=f"with json_object the answer is {text[:100]!r}")


@pytest.mark.requires_capability("structured_outputs_field")
def test_a_choice_is_one_of_those_offered(client: ApiClient) -> None:
    """With vLLM's structured_outputs, the answer is exactly one of the given words."""
    text = finished(client, "a choice", structured_outputs={"choice": ["red", "green", "blue"]})
    assert text in ("red", "green", "blue"), f"the answer {text!r} is not one of the choices"


@pytest.mark.compares_answers
@pytest.mark.requires_capability("structured_outputs_field")
def test_a_pattern_is_matched_whole(client: ApiClient) -> None:
    """With a regular expression (vLLM's structured_outputs), the whole answer matches it."""
    text = finished(client, "a pattern", structured_outputs={"regex": "[0-9]{3}-[a-c]{2}"})
    assert re.fullmatch("[0-9]{3}-[a-c]{2}", text), f"the answer {text!r} does not match the pattern"


_FIELD = pytest.mark.requires_capability("structured_outputs_field")
_FORMAT = pytest.mark.requires_capability("structured_output")
_NO_TYPE = {"name": "x", "schema": {"type": "no-such-type"}}


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param({"response_format": {"type": "json_schema"}}, id="no-schema", marks=_FORMAT),
        pytest.param({"response_format": {"type": "json_schema", "json_schema": _NO_TYPE}}, id="bad-schema", marks=_FORMAT),
        pytest.param({"response_format": {"type": "no-such-format"}}, id="bad-format", marks=_FORMAT),
        pytest.param({"structured_outputs": {"regex": "("}}, id="bad-pattern", marks=_FIELD),
    ],
)
def test_a_structure_that_cannot_be_is_refused(client: ApiClient, server: ServerFacts, judge: Judge, wanted: Json) -> None:
    """An invalid structure is the client's error, and the server keeps working."""
    answer = client.sent(_PATH, {"model": client.model, "messages": [user("x")], "max_tokens": 4, **wanted})
    found: list[Finding] = [crash("structure", answer)] if answer.status_code >= 500 else []
    judge(found)
    if not found:
        message = f"an invalid structure is answered {shown(answer)}"
        required_of_vllm(server, holds=answer.status_code in REFUSALS, message=message)
    client.works()


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
