"""Streamed tool calls and structured answers add up to the same result as without streaming."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_ci.loadgen.chunk import Json, json_object
from vllm_ci.loadgen.stream import Stream
from vllm_ci.suites.streaming.asking import Asking, Endpoint, first_choice, unlike
from vllm_ci.suites.verdicts import inconclusive

_ON_CHAT = [pytest.param("chat", marks=pytest.mark.requires_capability("chat"))]
_CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Tokyo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
_WEATHER = {"type": "function", "function": {"name": "weather", "strict": True, "parameters": _CITY}}
_NAMED = {"tools": [_WEATHER], "tool_choice": {"type": "function", "function": {"name": "weather"}}}
_SCHEMA = {"response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": _CITY}}}


@pytest.fixture
def short(blankless: Json) -> Json:
    """Parameters of a reproducible answer that ends within the limit."""
    return {"temperature": 0, "max_tokens": 200, **blankless}


def _fragments(stream: Stream) -> list[Json]:
    """All fragments of a tool call, in order."""
    deltas = [choice.get("delta") for chunk in stream.chunks for choice in chunk.choices]
    calls = [call for delta in deltas if isinstance(delta, dict) for call in delta.get("tool_calls") or []]
    assert calls, f"a call was required, but there is none: {stream.describe()}, text {stream.text[:100]!r}"
    return calls


def _message(ask: Asking, endpoint: Endpoint, body: Json) -> Any:
    """The message of a complete response without streaming; inconclusive if it was truncated."""
    choice = first_choice(ask.whole(endpoint, body))
    if choice.get("finish_reason") == "length":
        inconclusive("the model did not finish its structured output within 200 tokens")
    return choice.get("message") or {}


def _arguments(message: Any) -> str:
    """Arguments of the first call of a message."""
    calls = message.get("tool_calls")
    assert calls, f"a call was required, but without streaming there is none: {message}"
    return str((calls[0].get("function") or {}).get("arguments"))


@pytest.mark.requires_capability("tools")
@pytest.mark.parametrize("endpoint", _ON_CHAT, indirect=True)
def test_the_pieces_of_a_call_make_the_whole_call(ask: Asking, endpoint: Endpoint, short: Json) -> None:
    """Clients join the fragments of the arguments; the result equals the response without streaming."""
    body = endpoint.body("How is the weather?", **_NAMED, **short)
    before, stream, after = _message(ask, endpoint, body), ask.stream(endpoint, body), _message(ask, endpoint, body)
    expected, again = _arguments(before), _arguments(after)
    unlike(expected, again)
    functions = [call.get("function") or {} for call in _fragments(stream)]
    arguments = "".join(str(function.get("arguments") or "") for function in functions if isinstance(function, dict))
    same = json_object(arguments) == json_object(expected)  # servers may set spaces differently
    assert same, f"the fragments add up to {arguments[:200]!r}; without streaming it is {expected[:200]!r}"


@pytest.mark.requires_capability("tools")
@pytest.mark.parametrize("endpoint", _ON_CHAT, indirect=True)
def test_the_first_piece_of_a_call_says_which(ask: Asking, endpoint: Endpoint, short: Json) -> None:
    """The first fragment has the id and the name, and only it; every fragment has the index of its call."""
    fragments = _fragments(ask.stream(endpoint, endpoint.body("How is the weather?", **_NAMED, **short)))
    named = [function.get("name") for call in fragments if isinstance(function := call.get("function"), dict)]
    assert named, f"no fragment has a function: {fragments[0]}"
    assert named[0] == "weather", f"the first fragment has the name {named[0]!r}"
    assert not any(named[1:]), f"the name is repeated, and clients would concatenate it: {named}"
    assert fragments[0].get("id"), "the first fragment has no id, so the result of the call could not be returned"
    lost = [call for call in fragments if call.get("index") != 0 or isinstance(call.get("index"), bool)]
    assert not lost, f"{len(lost)} of {len(fragments)} fragments of the only call do not have its index 0: {lost[0]}"
    ids = {str(call["id"]) for call in fragments if call.get("id")}
    assert len(ids) == 1, f"the fragments of one call have the ids {sorted(ids)}"


@pytest.mark.requires_capability("tools")
@pytest.mark.parametrize("choice", ["named", "required"])
@pytest.mark.parametrize("endpoint", _ON_CHAT, indirect=True)
def test_a_streamed_call_ends_like_a_whole_one(ask: Asking, endpoint: Endpoint, short: Json, choice: str) -> None:
    """Arguments and finish reason are the same as without streaming, and no content repeats the arguments.

    Clients look at the finish reason to see whether a function is to be called.
    """
    wanted = _NAMED if choice == "named" else {"tools": [_WEATHER], "tool_choice": "required"}
    body = endpoint.body("How is the weather?", **wanted, **short)
    before, stream, after = _called(ask, endpoint, body), ask.stream(endpoint, body), _called(ask, endpoint, body)
    unlike(before, after)
    expected, reason = before
    arguments = _joined(stream)
    assert json_object(arguments) == json_object(expected), (
        f"streamed {arguments[:200]!r}, without streaming {expected[:200]!r}"
    )
    assert arguments.strip() not in stream.text, f"the content of the stream repeats the arguments: {stream.text[:200]!r}"
    assert stream.finish_reason == reason, f"finish reason is {stream.finish_reason!r} streamed, {reason!r} without streaming"


def _called(ask: Asking, endpoint: Endpoint, body: Json) -> tuple[str, object]:
    """Arguments of the first call of a response without streaming, and its finish reason."""
    choice = first_choice(ask.whole(endpoint, body))
    if choice.get("finish_reason") == "length":
        pytest.skip("the model does not finish its calls within 200 tokens")
    return _arguments(choice.get("message") or {}), choice.get("finish_reason")


def _joined(stream: Stream) -> str:
    """The arguments of the first call of a stream."""
    functions = [call.get("function") for call in _fragments(stream) if call.get("index") in (0, None)]
    return "".join(str(function.get("arguments") or "") for function in functions if isinstance(function, dict))


@pytest.mark.requires_capability("structured_output")
@pytest.mark.parametrize("endpoint", _ON_CHAT, indirect=True)
def test_the_pieces_of_a_structured_answer_make_the_whole(ask: Asking, endpoint: Endpoint, short: Json) -> None:
    """A structured answer is the same with and without streaming."""
    body = endpoint.body("Name a city.", **_SCHEMA, **short)
    before, stream, after = _message(ask, endpoint, body), ask.stream(endpoint, body), _message(ask, endpoint, body)
    expected = str(before.get("content") or "")
    unlike(expected, str(after.get("content") or ""))
    assert stream.text == expected, f"streamed {stream.text[:200]!r}, without streaming {expected[:200]!r}"
