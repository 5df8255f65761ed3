"""Tools: the model's calls have the documented format and match the declared parameters.

A model with random weights calls no tool by itself, so the cases force a call; `strict` requires arguments that match the
schema.
"""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from vllm_ci.suites.client import ApiClient, Json, shown, user
from vllm_ci.suites.verdicts import inconclusive

pytestmark = pytest.mark.requires_capability("chat", "tools")

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Tokyo"]}, "days": {"type": "integer", "enum": [1, 2, 3]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "strict": True, "parameters": PARAMETERS}}
CLOCK = {"type": "function", "function": {"name": "clock", "strict": True, "parameters": PARAMETERS}}


def called(client: ApiClient, blankless: Json, **parameters: Any) -> Json:
    """A choice that must contain a call."""
    asked = {"temperature": 0, "max_tokens": 300, "parallel_tool_calls": False, **blankless, **parameters}
    answer = client.chat("How is the weather in Paris?", **asked)
    choice: Json = answer["choices"][0]
    if choice["finish_reason"] == "length":
        inconclusive("the model did not finish its call within 300 tokens")
    assert choice["message"].get("tool_calls"), f"a call was required, but the answer is {str(choice['message'])[:200]}"
    return choice


def test_a_required_call_is_made(client: ApiClient, blankless: Json) -> None:
    """With tool_choice `required`, the answer is a call of one of the declared functions."""
    choice = called(client, blankless, tools=[WEATHER, CLOCK], tool_choice="required")
    call = choice["message"]["tool_calls"][0]
    assert call["type"] == "function", f"the call's type is {call['type']!r}"
    assert call["id"], "the call has no id, so its result could not be returned"
    assert call["function"]["name"] in ("weather", "clock"), f"calls {call['function']['name']!r}, which was not declared"
    assert choice["finish_reason"] in ("tool_calls", "stop"), f"finish_reason is {choice['finish_reason']!r}"


def test_a_named_function_is_called(client: ApiClient, blankless: Json) -> None:
    """With a named tool_choice, only that function is called."""
    named = {"type": "function", "function": {"name": "clock"}}
    choice = called(client, blankless, tools=[WEATHER, CLOCK], tool_choice=named)
    names = [call["function"]["name"] for call in choice["message"]["tool_calls"]]
    assert set(names) == {"clock"}, f"requested a call of clock, but {names} was called"


def test_arguments_fit_the_declared_schema(client: ApiClient, blankless: Json) -> None:
    """Arguments are a JSON text; for a strict function they match its parameters."""
    named = {"type": "function", "function": {"name": "weather"}}  # one call: a list of them may never end
    choice = called(client, blankless, tools=[WEATHER], tool_choice=named)
    for call in choice["message"]["tool_calls"]:
        text = call["function"]["arguments"]
        assert isinstance(text, str), f"arguments are {type(text).__name__}, not a JSON text"
        try:
            jsonschema.validate(json.loads(text), PARAMETERS)
        except (json.JSONDecodeError, jsonschema.ValidationError) as error:
            pytest.fail(f"the arguments {text[:200]!r} do not match the schema: {str(error).splitlines()[0]}")


def test_no_call_where_none_is_allowed(client: ApiClient) -> None:
    """With tool_choice `none`, the answer is text."""
    answer = client.chat("hello", tools=[WEATHER], tool_choice="none", max_tokens=4)
    calls = answer["choices"][0]["message"].get("tool_calls")
    assert not calls, f"tool_choice is none, but {calls} was called"


@pytest.mark.requires_capability("tokenize")
def test_declared_tools_are_in_the_prompt(client: ApiClient) -> None:
    """A model can only call tools that are in its prompt."""
    with_tool = client.chat("hello", tools=[WEATHER], max_tokens=1)["usage"]["prompt_tokens"]
    without = client.chat("hello", max_tokens=1)["usage"]["prompt_tokens"]
    assert with_tool > without, f"the prompt has {with_tool} tokens with a tool declared and {without} without"


def test_a_result_goes_back_into_the_conversation(client: ApiClient) -> None:
    """The result of a call is part of the next prompt."""
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris","days":1}'}}

    def asked(result: str) -> int:
        messages = [
            user("How is the weather?"),
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": result},
        ]
        return int(client.chat(messages, tools=[WEATHER], max_tokens=1)["usage"]["prompt_tokens"])

    short, long = asked("sun"), asked("sun in the morning, rain in the evening, and a rainbow between the two")
    assert long > short, f"the prompt has {short} tokens with a short result and {long} with a long one"


def test_naming_an_undeclared_function_is_refused(client: ApiClient) -> None:
    """A tool_choice with an undeclared function is the client's error."""
    named = {"type": "function", "function": {"name": "undeclared"}}
    body = {"model": client.model, "messages": [user("hello")], "tools": [WEATHER], "tool_choice": named, "max_tokens": 4}
    answer = client.post("/v1/chat/completions", body)
    assert answer.status_code == 400, shown(answer)
