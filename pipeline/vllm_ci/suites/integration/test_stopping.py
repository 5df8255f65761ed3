"""Answers end at the right place, with the right finish reason."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_ci.suites.answers import Answer
from vllm_ci.suites.client import ApiClient
from vllm_ci.suites.integration.asking import ENDS, alike, required_of_vllm, too_long, unless_refused, usage
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.verdicts import Inconclusive

pytestmark = pytest.mark.requires_capability("text")

_PROMPT = "Tell me a story about a fox."
_PROMPTS = (_PROMPT, "Write the alphabet and the numbers.", "The quick brown fox")


@pytest.fixture(scope="module")
def story(client: ApiClient) -> Answer:
    """A greedy answer of 48 tokens, from which stop strings and tokens are taken."""
    return told(client, _PROMPT)


@pytest.fixture(scope="module")
def tale(client: ApiClient, story: Answer) -> tuple[str, Answer, list[str]]:
    """A prompt, its answer, and parts of it that can be stop strings: adjacent plain characters, in order of appearance."""
    for prompt in _PROMPTS:
        answer = story if prompt == _PROMPT else told(client, prompt)
        text = answer.text
        pairs = [text[at : at + 2] for at in range(4, len(text) - 2)]
        plain = [pair for pair in pairs if pair.isascii() and pair.isprintable() and " " not in pair]
        found = list(dict.fromkeys(pair for pair in plain if text.index(pair) > 3))
        if len(found) >= 3:
            return prompt, answer, found
    if client.server.can("usage") and not (story.completion_tokens or 0):
        pytest.skip("the model ends its answers at once, so there is no text for stop strings")
    raise Inconclusive(f"the model's answer {story.text!r} contains no plain text for stop strings")


@pytest.mark.parametrize("count", [1, 7])
def test_max_tokens_cuts_the_answer(client: ApiClient, count: int) -> None:
    """The answer has exactly this many tokens and the finish reason `length`."""
    cut(client, client.ask(_PROMPT, **client.exactly(count)), count)


@pytest.mark.requires_capability("chat", "completions")
def test_max_tokens_cuts_a_chat_answer(client: ApiClient) -> None:
    """The same for chat, which is another code path."""
    cut(client, client.talk(_PROMPT, **client.exactly(5)), 5)


@pytest.mark.requires_capability("temperature")
def test_a_stop_string_ends_the_answer(client: ApiClient, server: ServerFacts, tale: tuple[str, Answer, list[str]]) -> None:
    """The answer ends before the stop string, with the finish reason `stop`."""
    prompt, whole, words = tale
    stop = words[len(words) // 4]  # an early one, because rounding may change the end of an answer
    answer = told(client, prompt, stop=stop)
    assert answer.finish_reason == "stop", f"stopped at {stop!r}, but finish_reason is {answer.finish_reason!r}"
    assert stop not in answer.text, f"the stop string {stop!r} is part of the answer"
    stopped_by = answer.choice.get("stop_reason")
    # A field of vLLM beside finish_reason: the stop string or token, of either surface.
    assert stopped_by == stop or not server.is_vllm, f"stopped at {stop!r}, but stop_reason is {stopped_by!r}"
    expected = whole.text.partition(stop)[0]
    same = _same(client, prompt, whole, answer.text, expected)
    assert same, f"the answer {answer.text[-40:]!r} does not end just before {stop!r}"


@pytest.mark.requires_capability("temperature")
def test_the_first_of_several_stop_strings_wins(client: ApiClient, tale: tuple[str, Answer, list[str]]) -> None:
    """Stop strings can be given in any order."""
    prompt, whole, words = tale
    late, early = words[-1], words[1]
    answer = told(client, prompt, stop=[late, early, "never-in-there"])
    expected = min((whole.text.partition(stop)[0] for stop in (late, early)), key=len)
    same = _same(client, prompt, whole, answer.text, expected)
    assert same, f"the answer {answer.text[-40:]!r} should end at the first of {early!r} and {late!r}"


def test_a_stop_string_is_kept_where_that_is_asked_for(
    client: ApiClient, server: ServerFacts, tale: tuple[str, Answer, list[str]]
) -> None:
    """With vLLM's include_stop_str_in_output the stop string is kept, for clients that need it."""
    prompt, _, words = tale
    stop = words[len(words) // 2]
    body = client.body(prompt, temperature=0, stop=stop, include_stop_str_in_output=True, **client.exactly(48))
    text = unless_refused(client, client.path, body, "include_stop_str_in_output").text
    required_of_vllm(server, holds=text.endswith(stop), message=f"the answer should end with {stop!r}: {text[-20:]!r}")


@pytest.mark.requires_capability("structured_outputs_field")
@pytest.mark.parametrize("stop", ["本", "🦊", "é"])
def test_a_stop_string_may_be_of_any_script(client: ApiClient, stop: str) -> None:
    """Characters of several bytes, which often are several tokens, end an answer, too."""
    text = "one é two 日本語 three 🦊 four"
    asked = {"temperature": 0, "max_tokens": 96, "structured_outputs": {"choice": [text]}, "stop": [stop]}
    found = client.talk("Say it.", **asked)
    expected = text.partition(stop)[0]
    assert found.text.strip() == expected.strip(), f"the answer should end before {stop!r}: {found.text!r}"
    assert found.finish_reason == "stop", f"stopped at {stop!r}, but finish_reason is {found.finish_reason!r}"


@pytest.mark.requires_capability("token_ids", "stop_token_ids")
def test_a_stop_token_ends_the_answer(client: ApiClient, server: ServerFacts, story: Answer) -> None:
    """With vLLM's stop_token_ids the answer ends at the token, with the finish reason `stop` and the token as stop_reason."""
    ids = story.token_ids
    if not ids:
        pytest.skip("the model ends its answer at once")
    token = ids[len(ids) // 2]
    answer = told(client, _PROMPT, stop_token_ids=[token])
    reason, stopped_by = answer.finish_reason, answer.choice.get("stop_reason")
    required_of_vllm(server, holds=reason == "stop", message=f"stopped at token {token}, but finish_reason is {reason!r}")
    required_of_vllm(server, holds=stopped_by == token, message=f"stop_reason is {stopped_by!r}, not the token {token}")
    assert token not in answer.token_ids[:-1], f"the answer goes on after the stop token {token}: {answer.token_ids}"


@pytest.mark.requires_capability("temperature")
def test_a_stop_string_that_never_comes_changes_nothing(client: ApiClient, story: Answer) -> None:
    """A stop string that does not occur must not change the answer."""
    answer = told(client, _PROMPT, stop="never-in-there")
    assert _same(client, _PROMPT, story, answer.text, story.text), (
        f"the answer changes with a stop string that does not occur: {answer.text[-40:]!r} instead of {story.text[-40:]!r}"
    )
    assert answer.finish_reason == story.finish_reason, f"finish_reason is {answer.finish_reason!r}"


@pytest.mark.requires_capability("tokenize", "usage", "min_tokens", "stop_token_ids")
def test_min_tokens_holds_the_end_back(client: ApiClient, server: ServerFacts, story: Answer) -> None:
    """Before vLLM's min_tokens are reached, no stop token is generated."""
    first = (story.token_ids or client.tokens(story.text, add_special_tokens=False))[:1]
    answer = client.ask(_PROMPT, temperature=0, max_tokens=12, min_tokens=8, stop_token_ids=first)
    count = answer.count("completion_tokens")
    required_of_vllm(server, holds=count >= 8, message=f"requested at least 8 tokens, got {count}")


def told(client: ApiClient, prompt: str, **parameters: Any) -> Answer:
    """A greedy answer of 48 tokens."""
    return client.ask(prompt, temperature=0, **client.exactly(48), **client.with_ids, **parameters)


def cut(client: ApiClient, answer: Answer, count: int) -> None:
    """Check an answer of exactly this many tokens."""
    if client.server.can("usage"):
        usage(client, answer, tokens=count)
    wrong = too_long(answer, count)
    assert not wrong, wrong
    # Without ignore_eos the model may have ended the answer before.
    ends = ("length",) if client.server.can("ignore_eos") else ENDS
    assert answer.finish_reason in ends, f"the answer is truncated, but finish_reason is {answer.finish_reason!r}"


def _same(client: ApiClient, prompt: str, whole: Answer, found: str, expected: str) -> bool:
    """Whether a greedy answer is the expected one; only its beginning counts if the server does not repeat greedy answers."""
    if found.strip() == expected.strip():
        return True
    return told(client, prompt).text != whole.text and alike([found.strip(), expected.strip()])
