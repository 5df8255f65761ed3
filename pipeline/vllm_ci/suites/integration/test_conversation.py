"""Conversations of several turns keep their context.

The cases check the server, not the model: the context must reach the model, which shows in the number of prompt tokens and in
the prompt that the server rendered.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import pytest

from vllm_ci.suites.client import ApiClient, Json, assistant, at_once, system, user
from vllm_ci.suites.integration.asking import unless_refused
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.work import Sizes

pytestmark = [pytest.mark.requires_capability("chat"), pytest.mark.compares_answers]

_TURNS = 4


@pytest.mark.requires_capability("usage")
@pytest.mark.sized(times=(4, 2))
def test_the_prompt_grows_by_what_was_said(client: ApiClient, server: ServerFacts, size: Sizes) -> None:
    """Every prompt has exactly the tokens that the chat template renders for the conversation so far."""
    messages: list[Json] = [system("You are brief.")] if server.can("system_messages") else []
    prompts: list[list[Json]] = []
    for turn in range(size.times):
        messages.append(user(f"Question number {turn}: what comes next?"))
        prompts.append(list(messages))
        messages.append(assistant("The next question."))
    counted = _counts(client, prompts)
    rendered = [len(client.tokens(prompt)) for prompt in prompts] if server.can("tokenize") else counted
    assert counted == rendered, f"prompt tokens by turn are {counted}; the conversation so far has {rendered}"
    assert counted == sorted(set(counted)), f"prompt tokens do not grow from turn to turn: {counted}"


@pytest.mark.requires_capability("token_ids", "tokenize")
def test_a_fact_planted_early_is_in_the_prompt_of_a_late_turn(client: ApiClient, canary: Callable[[], str]) -> None:
    """The start of a conversation must not be dropped."""
    fact = canary()
    messages: list[Json] = [user(f"Remember the word {fact}.")]
    for turn in range(_TURNS):
        messages += [assistant("Yes."), user(f"Now tell me about topic {turn}.")]
    assert fact in _prompt(client, messages), f"the word of the first turn is not in the prompt of turn {_TURNS + 1}"


@pytest.mark.requires_capability("usage")
def test_the_first_turn_counts_in_a_late_turn(client: ApiClient) -> None:
    """A longer first message makes the prompt of a late turn longer."""

    def conversation(first: str) -> list[Json]:
        later = [[assistant("Yes."), user(f"Now tell me about topic {turn}.")] for turn in range(_TURNS)]
        return [user(first), *itertools.chain.from_iterable(later)]

    firsts = ("hello", "hello, and listen to a long story about a fox and a dog first")
    short, long = _counts(client, [conversation(first) for first in firsts])
    assert long > short, (
        f"the prompt of turn {_TURNS + 1} has {long} tokens with a long first message and {short} with a short one"
    )


@pytest.mark.requires_capability("token_ids", "tokenize", "system_messages")
def test_turns_stay_in_their_order(client: ApiClient, canary: Callable[[], str]) -> None:
    """The order of the turns must not change."""
    words = [canary() for _ in range(4)]
    prompt = _prompt(client, [system(words[0]), user(words[1]), assistant(words[2]), user(words[3])])
    places = [prompt.find(word) for word in words]
    assert -1 not in places, f"{places.count(-1)} of 4 messages are not in the prompt"
    assert places == sorted(places), f"the messages are in the order {sorted(range(4), key=places.__getitem__)}"


@pytest.mark.requires_capability("token_ids", "tokenize")
def test_a_new_conversation_knows_nothing_of_the_last_one(client: ApiClient, canary: Callable[[], str]) -> None:
    """State that is kept between requests would mix the conversations of users."""
    fact = canary()
    client.talk(f"Remember the word {fact}.", max_tokens=1)
    assert fact not in _prompt(client, [user("Which word did I say?")]), "the prompt contains a word of an earlier conversation"


@pytest.mark.requires_capability("usage")
def test_a_prompt_is_as_long_after_another_conversation(client: ApiClient) -> None:
    """A prompt that grows by what others said contains it."""
    alone = client.talk("Which word did I say?", max_tokens=1).count("prompt_tokens")
    client.talk("Remember the words fox, dog, sea, bread, winter, music and numbers.", max_tokens=1)
    after = client.talk("Which word did I say?", max_tokens=1).count("prompt_tokens")
    assert after == alone, f"the same prompt has {alone} tokens, and {after} after another conversation"


@pytest.mark.requires_capability("usage")
def test_earlier_answers_are_part_of_the_prompt(client: ApiClient, server: ServerFacts) -> None:
    """Messages of the assistant are part of the context too."""
    short = [user("hello"), assistant("yes"), user("and then?")]
    long = [user("hello"), assistant("yes, and here is a much longer story about a fox and a dog"), user("and then?")]
    counts = _counts(client, [short, long])
    expected = [len(client.tokens(messages)) for messages in (short, long)] if server.can("tokenize") else counts
    assert counts == expected, f"the prompts have {counts} tokens, but the rendered conversations have {expected}"
    assert counts[1] > counts[0], (
        f"the prompt has {counts[1]} tokens with a longer earlier answer and {counts[0]} with a short one"
    )


@pytest.mark.requires_capability("usage")
def test_earlier_answers_may_come_in_parts(client: ApiClient) -> None:
    """The content of every role may be a list of parts (OpenAI API reference, messages); its text is part of the context."""

    def counted(text: str, *, parts: bool) -> int:
        said: Json = {"role": "assistant", "content": [{"type": "text", "text": text}] if parts else text}
        body = {"model": client.model, "messages": [user("hello"), said, user("and then?")], "max_tokens": 1}
        return unless_refused(client, "/v1/chat/completions", body, "an answer in parts").count("prompt_tokens")

    short, long = "yes", "yes, and here is a much longer story about a fox and a dog"
    by_text, by_parts = (counted(long, parts=parts) - counted(short, parts=parts) for parts in (False, True))
    assert by_parts == by_text, f"a longer answer adds {by_text} prompt tokens as plain text, and {by_parts} as a part"


def _counts(client: ApiClient, conversations: Iterable[list[Json]]) -> list[int]:
    """Prompt tokens of each conversation."""
    return at_once(lambda messages: client.talk(messages, max_tokens=1).count("prompt_tokens"), conversations)


def _prompt(client: ApiClient, messages: list[Json]) -> str:
    """The prompt that the server rendered."""
    return client.text(client.talk(messages, max_tokens=1, return_token_ids=True).prompt_token_ids)
