"""Answers end at the right place, with the right finish reason."""

from __future__ import annotations

import pytest

from vllm_ci.suites.client import ApiClient, Json
from vllm_ci.suites.verdicts import inconclusive

pytestmark = pytest.mark.requires_capability("completions")

_PROMPT = "Tell me a story about a fox."


@pytest.fixture(scope="module")
def story(client: ApiClient) -> Json:
    """A greedy answer of 48 tokens, from which stop strings and tokens are taken."""
    answer = client.complete(_PROMPT, temperature=0, max_tokens=48, ignore_eos=True, return_token_ids=True)
    return dict(answer["choices"][0])


@pytest.fixture(scope="module")
def words(story: Json) -> list[str]:
    """Parts of the story that can be stop strings: pairs of adjacent plain characters, in order of appearance."""
    text = story["text"]
    pairs = [text[at : at + 2] for at in range(4, len(text) - 2)]
    plain = [pair for pair in pairs if pair.isascii() and pair.isprintable() and " " not in pair]
    found = list(dict.fromkeys(pair for pair in plain if text.index(pair) > 3))
    if len(found) < 3:
        inconclusive(f"the model's answer {text!r} contains no plain text for stop strings")
    return found


@pytest.mark.parametrize("count", [1, 7])
def test_max_tokens_cuts_the_answer(client: ApiClient, count: int) -> None:
    """The answer has exactly this many tokens and the finish reason `length`."""
    answer = client.complete(_PROMPT, max_tokens=count, ignore_eos=True)
    assert answer["usage"]["completion_tokens"] == count, f"requested {count} tokens, got {answer['usage']}"
    assert answer["choices"][0]["finish_reason"] == "length", (
        f"the answer is truncated, but finish_reason is {answer['choices'][0]['finish_reason']!r}"
    )


@pytest.mark.requires_capability("chat")
def test_max_tokens_cuts_a_chat_answer(client: ApiClient) -> None:
    """The same for chat, which is another code path."""
    answer = client.chat(_PROMPT, max_tokens=5, ignore_eos=True)
    assert answer["usage"]["completion_tokens"] == 5, f"requested 5 tokens, got {answer['usage']}"
    assert answer["choices"][0]["finish_reason"] == "length", (
        f"the answer is truncated, but finish_reason is {answer['choices'][0]['finish_reason']!r}"
    )


def test_a_stop_string_ends_the_answer(client: ApiClient, story: Json, words: list[str]) -> None:
    """The answer ends before the stop string, with the finish reason `stop`."""
    stop = words[len(words) // 2]
    choice = stopped(client, stop=stop)
    assert choice["finish_reason"] == "stop", f"stopped at {stop!r}, but finish_reason is {choice['finish_reason']!r}"
    assert stop not in choice["text"], f"the stop string {stop!r} is part of the answer"
    assert choice["text"] == story["text"].partition(stop)[0], f"the answer does not end just before {stop!r}"


def test_the_first_of_several_stop_strings_wins(client: ApiClient, story: Json, words: list[str]) -> None:
    """Stop strings can be given in any order."""
    late, early = words[-1], words[1]
    choice = stopped(client, stop=[late, early, "never-in-there"])
    expected = min((story["text"].partition(stop)[0] for stop in (late, early)), key=len)
    assert choice["text"] == expected, f"the answer should end at the first of {early!r} and {late!r}"


def test_a_stop_string_is_kept_where_that_is_asked_for(client: ApiClient, words: list[str]) -> None:
    """With vLLM's include_stop_str_in_output the stop string is kept, for clients that need it."""
    stop = words[len(words) // 2]
    choice = stopped(client, stop=stop, include_stop_str_in_output=True)
    assert choice["text"].endswith(stop), f"the answer should end with {stop!r}: {choice['text'][-20:]!r}"


@pytest.mark.requires_capability("token_ids")
def test_a_stop_token_ends_the_answer(client: ApiClient, story: Json) -> None:
    """With vLLM's stop_token_ids the answer ends at the token, with the finish reason `stop` and the token as stop_reason."""
    ids = story["token_ids"]
    token = ids[len(ids) // 2]
    choice = stopped(client, stop_token_ids=[token])
    assert choice["finish_reason"] == "stop", f"stopped at token {token}, but finish_reason is {choice['finish_reason']!r}"
    assert choice["stop_reason"] == token, f"stop_reason is {choice['stop_reason']!r}, not the token {token}"
    assert len(choice["token_ids"]) == ids.index(token) + 1, "the answer does not end at the stop token"


def test_a_stop_string_that_never_comes_changes_nothing(client: ApiClient, story: Json) -> None:
    """A stop string that does not occur must not change the answer."""
    choice = stopped(client, stop="never-in-there")
    assert choice["text"] == story["text"], "the answer changes with a stop string that does not occur"
    assert choice["finish_reason"] == "length", f"finish_reason is {choice['finish_reason']!r}"


@pytest.mark.requires_capability("tokenize")
def test_min_tokens_holds_the_end_back(client: ApiClient, story: Json) -> None:
    """Before vLLM's min_tokens are reached, no stop token is generated."""
    first = story["token_ids"][0] if story.get("token_ids") else client.tokens(story["text"])[0]
    answer = client.complete(_PROMPT, temperature=0, max_tokens=12, min_tokens=8, stop_token_ids=[first])
    count = answer["usage"]["completion_tokens"]
    assert count >= 8, f"requested at least 8 tokens, got {count}"


def stopped(client: ApiClient, **parameters: object) -> Json:
    """The story, requested again with stop parameters."""
    answer = client.complete(_PROMPT, temperature=0, max_tokens=48, ignore_eos=True, return_token_ids=True, **parameters)
    return dict(answer["choices"][0])
