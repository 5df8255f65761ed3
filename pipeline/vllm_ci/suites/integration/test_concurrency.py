"""Concurrent requests: each answer belongs to its own request."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vllm_ci.suites.client import ApiClient, Json, at_once
from vllm_ci.suites.work import Sizes

pytestmark = pytest.mark.requires_capability("completions")

_MANY = 24


def test_concurrent_answers_belong_to_their_questions(client: ApiClient, canary: Callable[[], str]) -> None:
    """Every prompt contains a unique word; with echo it appears in its own answer, and in no other."""
    words = [canary() for _ in range(_MANY)]
    texts = at_once(lambda word: client.complete(word, max_tokens=4, echo=True)["choices"][0]["text"], words)
    for word, text in zip(words, texts, strict=True):
        assert text.startswith(word), f"the answer to {word} starts with {text[:40]!r}"
        strangers = [other for other in words if other != word and other in text]
        assert not strangers, f"the answer to {word} contains {strangers} of other requests"


@pytest.mark.requires_capability("chat", "token_ids", "tokenize")
def test_concurrent_conversations_have_prompts_of_their_own(client: ApiClient, canary: Callable[[], str]) -> None:
    """The same for chat, checked by the prompt that the server rendered."""
    words = [canary() for _ in range(8)]

    def prompt(word: str) -> str:
        answer = client.chat(f"The word is {word}.", max_tokens=2, return_token_ids=True)
        return client.text(answer["prompt_token_ids"])

    for word, text in zip(words, at_once(prompt, words), strict=True):
        assert word in text, f"the prompt with {word} was rendered without it"
        assert sum(other in text for other in words) == 1, f"the prompt with {word} contains words of other requests"


@pytest.mark.sized(tokens=(24, 4))
def test_concurrent_requests_count_their_own_tokens(client: ApiClient, size: Sizes) -> None:
    """With concurrent prompts and answers of different lengths, each usage belongs to its own request."""

    def asked(number: int, tokens: int) -> Json:
        return dict(client.complete("hello " * number, max_tokens=tokens, ignore_eos=True)["usage"])

    numbers = list(range(1, 13))
    lengths = [size.tokens + 2 * number for number in numbers]
    alone = [asked(number, 1)["prompt_tokens"] for number in numbers]
    together = at_once(lambda each: asked(*each), zip(numbers, lengths, strict=True))
    assert [usage["completion_tokens"] for usage in together] == lengths, "answers have the lengths of other requests"
    assert [usage["prompt_tokens"] for usage in together] == alone, "prompts have the token counts of other requests"


@pytest.mark.sized(tokens=(32, 16))
def test_more_requests_than_slots_are_all_answered(client: ApiClient, size: Sizes) -> None:
    """Requests that do not fit are queued, and none is dropped."""
    answers = at_once(lambda _: client.complete("hello", max_tokens=size.tokens, ignore_eos=True), range(48))
    counts = {answer["usage"]["completion_tokens"] for answer in answers}
    assert counts == {size.tokens}, f"48 answers of {size.tokens} tokens each have {sorted(counts)}"


@pytest.mark.sized(tokens=(24, 8))
def test_seeded_answers_do_not_depend_on_the_company(client: ApiClient, size: Sizes) -> None:
    """Requests do not share sampling state: a seed gives the same first token alone and with concurrent requests."""

    def drawn(seed: int) -> object:
        known = {"temperature": 1.0, "seed": seed, "max_tokens": size.tokens, "ignore_eos": True, "return_token_ids": True}
        choice = client.complete("hello", **known)["choices"][0]
        return choice["token_ids"][0] if choice.get("token_ids") else choice["text"][:1]

    seeds = list(range(12))
    alone = [drawn(seed) for seed in seeds]
    together = at_once(drawn, seeds)
    same = sum(a == b for a, b in zip(alone, together, strict=True))
    # Rounding in batches may change a few of the tokens; shared state would change nearly all of them.
    assert same >= len(seeds) - 2, f"only {same} of {len(seeds)} seeded first tokens are the same alone and concurrently"
