"""Tools: the model's calls have the documented format and match the declared parameters.

A model with random weights calls no tool by itself, so the cases force a call; `strict` requires arguments that match the
schema.
"""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from vllm_ci.suites.answers import Answer, read
from vllm_ci.suites.client import ApiClient, Json, at_once, shown, user
from vllm_ci.suites.integration.asking import EndlessStructureError, required_of_vllm, unless_refused
from vllm_ci.suites.integration.refusals import REFUSALS
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.verdicts import Fault

pytestmark = pytest.mark.requires_capability("chat", "tools")

_PATH = "/v1/chat/completions"
_LENGTHS = (300, 900)
_CALL = "a call"
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Tokyo"]}, "days": {"type": "integer", "enum": [1, 2, 3]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "strict": True, "parameters": PARAMETERS}}
CLOCK = {"type": "function", "function": {"name": "clock", "strict": True, "parameters": PARAMETERS}}


class NoCallError(Fault):
    """A call was required, but none is made."""


def called(client: ApiClient, blankless: Json, **parameters: Any) -> Answer:
    """An answer that must contain a call.

    Raises:
        EndlessStructureError: It was truncated, at the larger of two lengths too.
        NoCallError: It has none.
    """
    asked = {"model": client.model, "messages": [user("How is the weather in Paris?")], "temperature": 0, **blankless}
    for tokens in _LENGTHS:
        answer = unless_refused(client, _PATH, {**asked, "max_tokens": tokens, **parameters}, "this tool_choice")
        if answer.finish_reason != "length":
            if not answer.calls:
                raise NoCallError(f"a call was required, but the answer is {str(answer.choice)[:200]}")
            return answer
    raise EndlessStructureError(f"the model did not finish its call within {_LENGTHS[-1]} tokens")


def function(call: object, name: str) -> Any:
    """A field of the function of a call."""
    return read(call, _CALL, "function", name)


def test_a_required_call_is_made(client: ApiClient, blankless: Json) -> None:
    """With tool_choice `required`, the answer is a call of one of the declared functions."""
    answer = called(client, blankless, tools=[WEATHER, CLOCK], tool_choice="required")
    call = answer.calls[0]
    kind, name = read(call, _CALL, "type"), function(call, "name")
    ids = [read(each, _CALL, "id", of=str) for each in answer.calls]
    assert kind == "function", f"the call's type is {kind!r}"
    assert len(set(ids)) == len(ids), f"the calls of one answer share an id, so their results cannot be told apart: {ids}"
    assert read(call, _CALL, "id", of=str), "the call has no id, so its result could not be returned"
    assert name in ("weather", "clock"), f"calls {name!r}, which was not declared"
    assert answer.finish_reason in ("tool_calls", "stop"), f"finish_reason is {answer.finish_reason!r}"


def test_only_one_call_is_made_where_no_more_are_allowed(client: ApiClient, server: ServerFacts, blankless: Json) -> None:
    """Without parallel calls there is at most one (OpenAI API reference, ``parallel_tool_calls``)."""
    try:
        answer = called(client, blankless, tools=[WEATHER, CLOCK], tool_choice="required", parallel_tool_calls=False)
    except NoCallError as error:
        if server.is_vllm:
            raise
        pytest.skip(f"{error}; another case checks that calls are made")
    count = len(answer.calls)
    required_of_vllm(server, holds=count == 1, message=f"parallel_tool_calls is false, but {count} calls are made")


@pytest.mark.compares_answers
def test_a_named_function_is_called(client: ApiClient, blankless: Json) -> None:
    """With a named tool_choice, only that function is called."""
    named = {"type": "function", "function": {"name": "clock"}}
    names = [function(call, "name") for call in called(client, blankless, tools=[WEATHER, CLOCK], tool_choice=named).calls]
    assert set(names) == {"clock"}, f"requested a call of clock, but {names} was called"


def test_arguments_fit_the_declared_schema(client: ApiClient, blankless: Json) -> None:
    """Arguments are a JSON text; for a strict function they match its parameters."""
    named = {"type": "function", "function": {"name": "weather"}}  # one call: a list of them may never end
    answer = called(client, blankless, tools=[WEATHER], tool_choice=named)
    for call in answer.calls:
        text = function(call, "arguments")
        assert isinstance(text, str), f"arguments are {type(text).__name__}, not a JSON text"
        assert text.strip() not in answer.text, f"the content of the message repeats the arguments: {answer.text[:200]!r}"
        try:
            jsonschema.validate(json.loads(text), PARAMETERS)
        except (json.JSONDecodeError, jsonschema.ValidationError) as error:
            pytest.fail(f"the arguments {text[:200]!r} do not match the schema: {str(error).splitlines()[0]}")


def test_no_call_where_none_is_allowed(client: ApiClient) -> None:
    """With tool_choice `none`, the answer is text."""
    calls = client.talk("hello", tools=[WEATHER], tool_choice="none", max_tokens=4).calls
    assert not calls, f"tool_choice is none, but {calls} was called"


@pytest.mark.compares_answers
@pytest.mark.requires_capability("usage")
def test_declared_tools_are_in_the_prompt(client: ApiClient, server: ServerFacts) -> None:
    """A model can only call tools that are in its prompt, if its chat template has a place for them."""
    hello = [user("hello")]
    if server.can("tokenize"):
        plain, declared = len(client.tokens(hello)), len(client.tokens(hello, tools=[WEATHER]))
        if plain == declared:
            pytest.skip("the chat template of the model ignores tools")
    elif not server.can("tool_prompt"):
        pytest.skip(f"the server lacks tool_prompt: {server.absent['tool_prompt']}")
    with_tool, without = at_once(
        lambda fields: client.talk(hello, max_tokens=1, **fields).count("prompt_tokens"), ({"tools": [WEATHER]}, {})
    )
    assert with_tool > without, f"the prompt has {with_tool} tokens with a tool declared and {without} without"


@pytest.mark.compares_answers
@pytest.mark.requires_capability("usage", "tool_results")
def test_a_result_goes_back_into_the_conversation(client: ApiClient, server: ServerFacts) -> None:
    """The result of a call is part of the next prompt."""
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris","days":1}'}}

    def conversation(result: str) -> list[Json]:
        return [
            user("How is the weather?"),
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": result},
        ]

    short, long = conversation("sun"), conversation("sun in the morning, rain in the evening, and a rainbow between the two")
    counts = at_once(lambda each: client.talk(each, tools=[WEATHER], max_tokens=1).count("prompt_tokens"), (short, long))
    if counts[0] == counts[1] and server.can("tokenize") and len(client.tokens(short)) == len(client.tokens(long)):
        pytest.skip("the chat template of the model ignores results of tools")
    assert counts[1] > counts[0], f"the prompt has {counts[0]} tokens with a short result and {counts[1]} with a long one"


@pytest.mark.compares_answers
@pytest.mark.requires_capability("usage", "tool_results", "tokenize")
def test_an_earlier_call_is_part_of_the_conversation(client: ApiClient) -> None:
    """The model sees which arguments it called a function with."""

    def conversation(arguments: str) -> list[Json]:
        call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
        asked: Json = {"role": "assistant", "content": None, "tool_calls": [call]}
        return [user("How is the weather?"), asked, {"role": "tool", "tool_call_id": "call_1", "content": "sun"}]

    pair = [conversation(json.dumps({"city": city, "days": 1})) for city in ("Paris", "the old town on the river by the sea")]
    rendered = [len(client.tokens(each, tools=[WEATHER])) for each in pair]
    if rendered[0] == rendered[1]:
        pytest.skip("the chat template of the model ignores earlier calls")
    counts = at_once(lambda each: client.talk(each, tools=[WEATHER], max_tokens=1).count("prompt_tokens"), pair)
    assert counts[1] > counts[0], f"the prompt has {counts[0]} tokens with a call of few words, and {counts[1]} with a long one"


def test_naming_an_undeclared_function_is_refused(client: ApiClient, server: ServerFacts) -> None:
    """A tool_choice with an undeclared function is the client's error."""
    named = {"type": "function", "function": {"name": "undeclared"}}
    body = {"model": client.model, "messages": [user("hello")], "tools": [WEATHER], "tool_choice": named, "max_tokens": 4}
    answer = client.sent(_PATH, body)
    if answer.status_code >= 500:
        raise Fault(f"a tool_choice with an undeclared function is answered {shown(answer)}")
    message = f"a tool_choice with an undeclared function is answered {shown(answer)}"
    required_of_vllm(server, holds=answer.status_code in REFUSALS, message=message)
