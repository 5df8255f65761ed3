"""Plain completions."""

from __future__ import annotations

import pytest

from vllm_ci.suites.client import ApiClient, Json

pytestmark = pytest.mark.requires_capability("completions")

PROMPTS = ("the quick brown fox", "tell me a secret", "what is your name")


@pytest.fixture(scope="module")
def answer(client: ApiClient) -> Json:
    """One short answer that several cases check."""
    return client.complete("hello world", max_tokens=6)


def test_is_a_text_completion_object(answer: Json) -> None:
    """Clients dispatch on the object type."""
    assert answer["object"] == "text_completion", f"object is {answer['object']!r}"
    assert answer["id"], "the answer has no id"


def test_holds_one_choice_with_text(answer: Json) -> None:
    """Without n there is exactly one choice, with index 0."""
    assert [choice["index"] for choice in answer["choices"]] == [0], f"choices are {answer['choices']}"
    assert isinstance(answer["choices"][0]["text"], str), "the choice has no text"
    assert answer["choices"][0]["finish_reason"] in ("stop", "length"), f"{answer['choices'][0]['finish_reason']!r}"


def test_echo_returns_the_prompt_before_the_answer(client: ApiClient) -> None:
    """Scoring and evaluation depend on echo."""
    plain = client.complete("hello world", max_tokens=4, temperature=0)["choices"][0]["text"]
    echoed = client.complete("hello world", max_tokens=4, temperature=0, echo=True)["choices"][0]["text"]
    assert echoed == "hello world" + plain, f"echo returned {echoed!r}, not the prompt followed by {plain!r}"


@pytest.mark.requires_capability("tokenize")
def test_a_prompt_of_token_ids_is_the_same_prompt(client: ApiClient) -> None:
    """Clients that render prompts themselves send ids, which must be treated like the same text."""
    ids = client.tokens("the quick brown fox")
    by_text = client.complete("the quick brown fox", max_tokens=6, temperature=0)
    by_ids = client.complete(ids, max_tokens=6, temperature=0)
    assert by_ids["usage"]["prompt_tokens"] == len(ids), f"{by_ids['usage']} for {len(ids)} ids"
    assert by_ids["choices"][0]["text"] == by_text["choices"][0]["text"], "the same prompt as ids gets another answer"


def test_a_batch_answers_every_prompt_in_its_order(client: ApiClient) -> None:
    """Each answer of a batch belongs to its prompt; with echo, its start shows which one."""
    choices = client.complete(PROMPTS, max_tokens=2, echo=True)["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2], f"indices are {[choice['index'] for choice in choices]}"
    for prompt, choice in zip(PROMPTS, choices, strict=True):
        assert choice["text"].startswith(prompt), f"the answer to {prompt!r} starts with {choice['text'][:40]!r}"


def test_a_batch_counts_the_tokens_of_all_its_prompts(client: ApiClient) -> None:
    """Billing depends on usage."""
    alone = [client.complete(prompt, max_tokens=1)["usage"]["prompt_tokens"] for prompt in PROMPTS]
    together = client.complete(PROMPTS, max_tokens=1)["usage"]
    assert together["prompt_tokens"] == sum(alone), f"{together['prompt_tokens']} prompt tokens for prompts of {alone}"
    assert together["completion_tokens"] == 3, f"{together['completion_tokens']} tokens for three answers of one token"
