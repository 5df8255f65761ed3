"""Concurrent requests: each answer belongs to its own request."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vllm_ci.suites.answers import Answer
from vllm_ci.suites.client import ApiClient, Json, at_once
from vllm_ci.suites.integration.greedy import is_greedy
from vllm_ci.suites.mixing import SWAPPED, MixedUpError
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.work import Sizes

pytestmark = [pytest.mark.requires_capability("text"), pytest.mark.compares_answers]

_LENGTHS = 4
_TELLING = 4
"""Shortest text that two prompts do not share by chance."""


@pytest.mark.sized(streams=(24, 12))
def test_concurrent_answers_belong_to_their_questions(
    client: ApiClient, server: ServerFacts, size: Sizes, canary: Callable[[], str]
) -> None:
    """Every prompt contains a unique word; with echo it appears in its own answer, and in no other."""
    words = [canary() for _ in range(size.streams)]
    echo = {"echo": True} if server.can("echo") and not client.is_chat else {}
    texts = at_once(lambda word: client.ask(word, max_tokens=4, **echo).text, words)
    for word, text in zip(words, texts, strict=True):
        strangers = [other for other in words if other != word and other in text]
        if strangers:
            raise MixedUpError(SWAPPED, f"the answer to {word} contains {strangers} of other requests: {text[:60]!r}")
        assert not echo or text.lstrip().startswith(word), f"the answer to {word} starts with {text[:40]!r}"


@pytest.mark.requires_capability("temperature")
@pytest.mark.sized(tokens=(16, 12))
def test_concurrent_answers_are_those_that_the_prompts_get_alone(client: ApiClient, size: Sizes) -> None:
    """No concurrent answer is the one that another prompt gets alone."""
    prompts = [f"Tell me about {what}." for what in ("foxes", "the sea", "music", "bread")]
    asked = {"temperature": 0, **client.exactly(size.tokens)}
    alone = [client.ask(prompt, **asked).text for prompt in prompts]
    together = at_once(lambda prompt: client.ask(prompt, **asked).text, prompts)
    for prompt, own, text in zip(prompts, alone, together, strict=True):
        others = [prompts[at] for at, other in enumerate(alone) if other == text != own and len(text) >= _TELLING]
        if others:
            raise MixedUpError(SWAPPED, f"the answer to {prompt!r} is the one to {others[0]!r}: {text[:80]!r}")


@pytest.mark.requires_capability("chat", "token_ids", "tokenize")
def test_concurrent_conversations_have_prompts_of_their_own(client: ApiClient, canary: Callable[[], str]) -> None:
    """The same for chat, checked by the prompt that the server rendered."""
    words = [canary() for _ in range(8)]

    def prompt(word: str) -> str:
        return client.text(client.talk(f"The word is {word}.", max_tokens=2, return_token_ids=True).prompt_token_ids)

    for word, text in zip(words, at_once(prompt, words), strict=True):
        if any(other != word and other in text for other in words):
            raise MixedUpError(SWAPPED, f"the prompt with {word} was rendered with words of other requests")
        assert word in text, f"the prompt with {word} was rendered without it"


@pytest.mark.requires_capability("usage")
@pytest.mark.sized(tokens=(24, 4), streams=(12, 8))
def test_concurrent_requests_count_their_own_tokens(client: ApiClient, size: Sizes) -> None:
    """With concurrent prompts and answers of different lengths, each usage belongs to its own request."""

    def asked(number: int, tokens: int) -> Answer:
        return client.ask("hello " * number, **client.exactly(tokens))

    numbers = [1 + at % _LENGTHS for at in range(size.streams)]
    lengths = [size.tokens + 2 * at for at in range(1, size.streams + 1)]
    alone = {number: asked(number, 1).count("prompt_tokens") for number in sorted(set(numbers))}
    together = at_once(lambda each: asked(*each), zip(numbers, lengths, strict=True))
    made = [answer.completion_tokens for answer in together]
    right = all(client.counts(count, length) for count, length in zip(made, lengths, strict=True))
    assert right, f"answers of {lengths} tokens are counted as {made}, the lengths of other requests"
    prompts = [answer.count("prompt_tokens") for answer in together]
    expected = [alone[number] for number in numbers]
    assert prompts == expected, f"prompts of {expected} tokens are counted as {prompts}, those of other requests"


@pytest.mark.sized(tokens=(32, 12), streams=(48, 24))
def test_more_requests_than_slots_are_all_answered(client: ApiClient, size: Sizes) -> None:
    """Requests that do not fit are queued, and none is dropped."""
    answers = at_once(lambda _: client.ask("hello", **client.exactly(size.tokens)), range(size.streams))
    wrong = [answer.completion_tokens for answer in answers if not client.counts(answer.completion_tokens, size.tokens)]
    assert not wrong, f"of {size.streams} concurrent answers of {size.tokens} tokens some have {wrong[:8]}"


@pytest.mark.requires_capability("seed")
@pytest.mark.sized(tokens=(8, 4), streams=(12, 8), times=(6, 4))
def test_seeded_answers_do_not_depend_on_the_company(client: ApiClient, size: Sizes) -> None:
    """Requests do not share sampling state: a seed gives the same first token alone and with concurrent requests."""

    def drawn(seed: int) -> tuple[object, ...]:
        asked = {"temperature": 1.0, "seed": seed, **client.exactly(size.tokens), **client.with_ids}
        return client.ask("hello", **asked).pieces[:1]

    alone = [drawn(seed) for seed in range(size.times)]
    together = at_once(drawn, range(size.streams))
    same = sum(a == b for a, b in zip(alone, together, strict=False))
    # Rounding in batches may change one of the tokens; shared state would change nearly all of them.
    assert same >= size.times - 1, f"only {same} of {size.times} seeded first tokens are the same alone and concurrently"


@pytest.mark.requires_capability("temperature")
@pytest.mark.sized(tokens=(12, 8))
def test_a_greedy_answer_stays_greedy_in_company(client: ApiClient, size: Sizes) -> None:
    """Sampling parameters are those of the request, not of another one in the same batch."""
    temperatures = [0.0, 1.5, 0.0, 1.5, 0.0, 1.5]

    def ask(more: Json) -> list[Answer]:
        fields = {**client.exactly(size.tokens), **client.with_ids, **more}
        mixed = at_once(lambda each: client.ask("Once upon a time", temperature=each, **fields), temperatures)
        return [each for each, temperature in zip(mixed, temperatures, strict=True) if temperature == 0]

    assert is_greedy(client, client.path, ask), (
        "greedy answers differ when other requests at temperature 1.5 run at the same time"
    )
