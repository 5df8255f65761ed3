"""Conversations of several turns keep their context.

The cases check the server, not the model: the context must reach the model, which shows in the number of prompt tokens and in
the prompt that the server rendered.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vllm_ci.suites.client import ApiClient, Json, assistant, system, user

pytestmark = pytest.mark.requires_capability("chat")

_TURNS = 4


@pytest.mark.requires_capability("tokenize")
def test_the_prompt_grows_by_what_was_said(client: ApiClient) -> None:
    """Every prompt has exactly the tokens that the chat template renders for the conversation so far."""
    messages: list[Json] = [system("You are brief.")]
    counted, rendered = [], []
    for turn in range(_TURNS):
        messages.append(user(f"Question number {turn}: what comes next?"))
        answer = client.chat(messages, max_tokens=4, temperature=0)
        counted.append(answer["usage"]["prompt_tokens"])
        rendered.append(len(client.tokens(messages)))
        messages.append(assistant(answer["choices"][0]["message"]["content"]))
    assert counted == rendered, f"prompt tokens by turn are {counted}; the conversation so far has {rendered}"
    assert counted == sorted(set(counted)), f"prompt tokens do not grow from turn to turn: {counted}"


@pytest.mark.requires_capability("token_ids", "tokenize")
def test_a_fact_planted_early_is_in_the_prompt_of_a_late_turn(client: ApiClient, canary: Callable[[], str]) -> None:
    """The start of a conversation must not be dropped."""
    fact = canary()
    messages: list[Json] = [user(f"Remember the word {fact}.")]
    for turn in range(_TURNS):
        messages += [assistant("Yes."), user(f"Now tell me about topic {turn}.")]
    answer = client.chat(messages, max_tokens=1, return_token_ids=True)
    prompt = client.text(answer["prompt_token_ids"])
    assert fact in prompt, f"the word of the first turn is not in the prompt of turn {_TURNS + 1}"


@pytest.mark.requires_capability("token_ids", "tokenize")
def test_turns_stay_in_their_order(client: ApiClient, canary: Callable[[], str]) -> None:
    """The order of the turns must not change."""
    words = [canary() for _ in range(4)]
    messages = [system(words[0]), user(words[1]), assistant(words[2]), user(words[3])]
    prompt = client.text(client.chat(messages, max_tokens=1, return_token_ids=True)["prompt_token_ids"])
    places = [prompt.find(word) for word in words]
    assert -1 not in places, f"{places.count(-1)} of 4 messages are not in the prompt"
    assert places == sorted(places), f"the messages are in the order {sorted(range(4), key=places.__getitem__)}"


@pytest.mark.requires_capability("token_ids", "tokenize")
def test_a_new_conversation_knows_nothing_of_the_last_one(client: ApiClient, canary: Callable[[], str]) -> None:
    """State that is kept between requests would mix the conversations of users."""
    fact = canary()
    client.chat(f"Remember the word {fact}.", max_tokens=1)
    answer = client.chat("Which word did I say?", max_tokens=1, return_token_ids=True)
    assert fact not in client.text(answer["prompt_token_ids"]), "the prompt contains a word of an earlier conversation"


@pytest.mark.requires_capability("tokenize")
def test_earlier_answers_are_part_of_the_prompt(client: ApiClient) -> None:
    """Messages of the assistant are part of the context too."""
    short = [user("hello"), assistant("yes"), user("and then?")]
    long = [user("hello"), assistant("yes, and here is a much longer story about a fox and a dog"), user("and then?")]
    counts = [client.chat(messages, max_tokens=1)["usage"]["prompt_tokens"] for messages in (short, long)]
    expected = [len(client.tokens(messages)) for messages in (short, long)]
    assert counts == expected, f"the prompts have {counts} tokens, but the rendered conversations have {expected}"
    assert counts[1] > counts[0], "a longer earlier answer does not make the prompt longer"
