"""Answers are read with a message for every field that is missing or of another kind."""

from __future__ import annotations

import contextlib
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_ci.suites.answers import Answer, chunks, document, read
from vllm_ci.suites.verdicts import Fault

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["choices", "message", "usage", "x"]), inner),
    max_leaves=8,
)


def chat(body: Any) -> Answer:
    return Answer(where="POST /v1/chat/completions", body=body, is_chat=True)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "POST /v1/chat/completions: the answer has no 'choices': {}"),
        ({"choices": None}, "POST /v1/chat/completions: choices is null, not a list"),
        ({"choices": []}, "POST /v1/chat/completions: the answer has no choice"),
        ({"choices": ["x"]}, "POST /v1/chat/completions: choices[0] is 'x', not an object"),
        ({"choices": [{"text": "x"}]}, "POST /v1/chat/completions: choices[0] has no 'message': {'text': 'x'}"),
        (
            {"choices": [{"message": {"content": ["x"]}}]},
            "POST /v1/chat/completions: choices[0].message.content is ['x'], not text",
        ),
    ],
)
def test_the_message_names_the_field_and_what_is_there(body: dict[str, Any], message: str) -> None:
    with pytest.raises(Fault) as error:
        _ = chat(body).text
    assert str(error.value) == message


def test_content_that_is_null_is_empty_text() -> None:
    assert chat({"choices": [{"message": {"content": None}}]}).text == ""


@pytest.mark.parametrize("usage", [None, {}, {"completion_tokens": None}, "none", {"completion_tokens": "3"}])
def test_usage_that_is_missing_is_not_counted(usage: object) -> None:
    assert chat({"usage": usage}).completion_tokens is None
    assert chat({}).prompt_tokens is None


def test_a_count_that_must_be_there_is_a_whole_number() -> None:
    with pytest.raises(Fault, match=r"usage\.total_tokens is True, not a whole number"):
        chat({"usage": {"total_tokens": True}}).count("total_tokens")


@pytest.mark.slow
@given(JSON)
def test_no_answer_raises_anything_else(body: object) -> None:
    answer = Answer(where="POST /x", body=body, is_chat=True)  # type: ignore[arg-type]
    for look in (lambda: answer.text, lambda: answer.calls, lambda: answer.finish_reason, lambda: answer.count("total_tokens")):
        with contextlib.suppress(Fault):
            look()


def test_a_value_of_one_of_several_types_is_taken() -> None:
    assert read({"created": 1.5}, "x", "created", of=(int, float)) == 1.5


def test_chunks_are_the_objects_of_a_stream_whatever_characters_their_text_has() -> None:
    text = "one\u0085two\u2028three\u2029four"
    body = f'data: {{"text": "{text}"}}\r\n\r\n: comment\n\ndata:{{"usage":\ndata: null}}\n\ndata: [DONE]\n\n'
    assert chunks(body.encode()) == [{"text": text}, {"usage": None}]


@pytest.mark.parametrize("data", ["{", "[]", "null", "hello"])
def test_an_event_that_is_no_object_is_a_fault(data: str) -> None:
    with pytest.raises(Fault, match="no JSON object"):
        chunks(f"data: {data}\n\n".encode())


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_of_json_is_refused(number: str) -> None:
    with pytest.raises(ValueError, match=f"{number} is no number of JSON"):
        document(httpx.Response(200, text=f'{{"logprob": {number}}}'))
    assert document(httpx.Response(200, text='{"logprob": -1e300}')) == {"logprob": -1e300}
    with pytest.raises(Fault, match="no JSON object"):
        chunks(f'data: {{"logprob": {number}}}\n\n'.encode())
