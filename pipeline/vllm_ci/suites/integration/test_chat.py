"""Chat completions without streaming."""

from __future__ import annotations

import time

import pytest

from vllm_ci.suites.client import ApiClient, Json, at_once, system, user

pytestmark = pytest.mark.requires_capability("chat")

_DAY_S = 86_400


@pytest.fixture(scope="module")
def answer(client: ApiClient) -> Json:
    """One short answer that several cases check."""
    return client.chat("Tell me about the weather.", max_tokens=8)


def test_is_a_chat_completion_object(answer: Json) -> None:
    """Clients dispatch on the object type."""
    assert answer["object"] == "chat.completion", f"object is {answer['object']!r}"
    assert answer["id"], "the answer has no id"


def test_holds_one_choice_by_the_assistant(answer: Json) -> None:
    """Without n there is exactly one choice, with index 0 and the role assistant."""
    assert [choice["index"] for choice in answer["choices"]] == [0], f"choices are {answer['choices']}"
    message = answer["choices"][0]["message"]
    assert message["role"] == "assistant", f"role is {message['role']!r}"
    assert isinstance(message["content"], str), f"content is {message['content']!r}, not text"


def test_says_why_it_ended(answer: Json) -> None:
    """Clients need the finish reason to distinguish complete from truncated answers."""
    reason = answer["choices"][0]["finish_reason"]
    assert reason in ("stop", "length"), f"finish_reason is {reason!r}"


def test_says_when_it_was_made(answer: Json) -> None:
    """The creation time is today, in seconds since 1970 (not milliseconds); logs are correlated by it."""
    distance = abs(answer["created"] - time.time())
    assert distance < _DAY_S, f"created is {answer['created']}, which is {distance:.0f} s away from now"


def test_every_answer_has_an_id_of_its_own(client: ApiClient) -> None:
    """Requests are traced and aborted by id."""
    ids = [answer["id"] for answer in at_once(lambda _: client.chat("hello", max_tokens=1), range(4))]
    assert len(set(ids)) == 4, f"4 answers have the ids {sorted(ids)}"


@pytest.mark.requires_capability("tokenize")
def test_a_system_message_is_part_of_the_prompt(client: ApiClient) -> None:
    """If the system message is dropped, the operator's rules are lost."""
    # Many templates add a default system message, so a long one is compared with a short one.
    messages = [system("You speak in short sentences about weather."), user("hello")]
    short = client.chat([system("Speak."), user("hello")], max_tokens=1)["usage"]["prompt_tokens"]
    ruled = client.chat(messages, max_tokens=1)["usage"]["prompt_tokens"]
    assert ruled > short, f"the prompt has {ruled} tokens with a long system message and {short} with a short one"
    assert ruled == len(client.tokens(messages)), "the prompt differs from the one that the chat template renders"


def test_text_parts_say_the_same_as_plain_text(client: ApiClient) -> None:
    """Many clients always send content as a list of parts."""
    parts = {"role": "user", "content": [{"type": "text", "text": "hello world"}]}
    listed = client.chat([parts], max_tokens=1)["usage"]["prompt_tokens"]
    plain = client.chat("hello world", max_tokens=1)["usage"]["prompt_tokens"]
    assert listed == plain, f"{listed} prompt tokens as a list of parts, {plain} as text"


def test_max_completion_tokens_bounds_the_answer(client: ApiClient) -> None:
    """The newer name of max_tokens must limit the answer too."""
    usage = client.chat("hello", max_completion_tokens=3)["usage"]
    assert usage["completion_tokens"] <= 3, f"asked for at most 3 tokens, got {usage['completion_tokens']}"


def test_unknown_fields_do_no_harm(client: ApiClient) -> None:
    """Newer clients send fields that an older server does not know; the server must ignore them."""
    assert client.chat("hello", max_tokens=1, a_field_of_the_future=True)["choices"], "no choice"
