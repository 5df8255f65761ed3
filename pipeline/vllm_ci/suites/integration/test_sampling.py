"""Temperatures, seeds and the other knobs of sampling do what they say."""

from __future__ import annotations

import pytest

from vllm_ci.suites.client import Client, Json
from vllm_ci.suites.work import Sizes

pytestmark = pytest.mark.requires_capability("completions")

_PROMPT = "Once upon a time there was"
_FIXED = pytest.mark.sized(tokens=(16, 8))
_DRAWN = pytest.mark.sized(tokens=(32, 12), times=(6, 3))


def said(client: Client, **parameters: object) -> object:
    """What the model says: token ids where the server tells them, else its text."""
    choice = completed(client, **parameters)["choices"][0]
    return tuple(choice["token_ids"]) if choice.get("token_ids") else choice["text"]


def completed(client: Client, **parameters: object) -> Json:
    """An answer of a fixed length, which the end-of-text token does not shorten."""
    known = {"ignore_eos": True, "return_token_ids": True}
    return client.complete(_PROMPT, **{**known, **parameters})


@_FIXED
def test_temperature_zero_repeats_token_by_token(client: Client, size: Sizes) -> None:
    """Greedy decoding of the same prompt, one request at a time, gives the same tokens every time."""
    answers = {said(client, temperature=0, max_tokens=size.tokens) for _ in range(3)}
    assert len(answers) == 1, f"3 greedy answers to one prompt are {len(answers)} different ones"


@_FIXED
def test_temperature_zero_does_not_depend_on_the_seed(client: Client, size: Sizes) -> None:
    """There is nothing to draw at temperature 0."""
    answers = {said(client, temperature=0, seed=seed, max_tokens=size.tokens) for seed in (1, 2, 3)}
    assert len(answers) == 1, f"greedy answers under 3 seeds are {len(answers)} different ones"


@pytest.mark.parametrize("temperature", [0.5, 1.0])
@_FIXED
def test_the_same_seed_repeats_the_answer(client: Client, size: Sizes, temperature: float) -> None:
    """A seed makes a drawn answer repeatable: evaluations and bug reports rest on it."""
    answers = {said(client, temperature=temperature, seed=1234, max_tokens=size.tokens) for _ in range(3)}
    assert len(answers) == 1, f"3 answers with the same seed at temperature {temperature} are {len(answers)} different ones"


@_DRAWN
def test_different_seeds_differ_at_temperature_one(client: Client, size: Sizes) -> None:
    """A seed that is ignored, or a temperature that is, shows here."""
    answers = {said(client, temperature=1.0, seed=seed, max_tokens=size.tokens) for seed in range(size.times)}
    assert len(answers) > 1, f"{size.times} different seeds at temperature 1 gave equal answers of {size.tokens} tokens"


@_DRAWN
def test_without_a_seed_answers_vary_at_temperature_one(client: Client, size: Sizes) -> None:
    """A server that always draws the same is not drawing."""
    answers = {said(client, temperature=1.0, max_tokens=size.tokens) for _ in range(size.times)}
    assert len(answers) > 1, f"{size.times} requests without a seed at temperature 1 gave equal answers of {size.tokens} tokens"


@_FIXED
def test_a_higher_temperature_strays_further_from_the_greedy_answer(client: Client, size: Sizes) -> None:
    """Near 0 the answer is all but greedy, at 2 it is all but random: a temperature that has no effect shows here."""
    greedy = said(client, temperature=0, max_tokens=size.tokens)
    cold = [said(client, temperature=0.01, seed=seed, max_tokens=size.tokens) == greedy for seed in range(6)]
    hot = [said(client, temperature=2.0, seed=seed, max_tokens=size.tokens) == greedy for seed in range(6)]
    assert sum(cold) > sum(hot), f"of 6 answers {sum(cold)} are greedy at 0.01 and {sum(hot)} at 2.0"


@_FIXED
def test_a_tiny_top_p_leaves_only_the_likeliest_token(client: Client, size: Sizes) -> None:
    """With a nucleus that holds one token, drawing is greedy."""
    greedy = said(client, temperature=0, max_tokens=size.tokens)
    answers = {said(client, temperature=1.0, top_p=1e-6, seed=seed, max_tokens=size.tokens) for seed in (1, 2)}
    assert answers == {greedy}, "top_p=1e-6 at temperature 1 does not give the greedy answer"


@_FIXED
def test_top_k_one_leaves_only_the_likeliest_token(client: Client, size: Sizes) -> None:
    """With vLLM's top_k and one candidate, drawing is greedy."""
    greedy = said(client, temperature=0, max_tokens=size.tokens)
    answers = {said(client, temperature=1.0, top_k=1, seed=seed, max_tokens=size.tokens) for seed in (1, 2)}
    assert answers == {greedy}, "top_k=1 at temperature 1 does not give the greedy answer"


@_FIXED
def test_n_gives_that_many_choices(client: Client, size: Sizes) -> None:
    """Indices 0 to n-1, each once."""
    choices = completed(client, n=3, temperature=1.0, max_tokens=size.tokens)["choices"]
    indices = sorted(choice["index"] for choice in choices)
    assert indices == [0, 1, 2], f"n=3 gave choices with the indices {indices}"


@pytest.mark.sized(tokens=(32, 12))
def test_the_choices_of_one_request_differ(client: Client, size: Sizes) -> None:
    """Equal answers are one answer, paid for n times."""
    choices = completed(client, n=4, temperature=1.0, max_tokens=size.tokens)["choices"]
    texts = {choice["text"] for choice in choices}
    assert len(texts) > 1, f"n=4 at temperature 1 gave 4 equal answers of {size.tokens} tokens"


@pytest.mark.requires_capability("tokenize")
def test_logit_bias_forces_a_token(client: Client) -> None:
    """A bias of 100 all but forces a token, one of -100 all but bans it."""
    token = client.tokens("h")[-1]
    text = completed(client, temperature=0, max_tokens=4, logit_bias={str(token): 100})["choices"][0]["text"]
    assert text == client.text([token] * 4), f"a bias of 100 for {client.text([token])!r} gave {text!r}"


@pytest.mark.requires_capability("token_ids")
def test_logit_bias_bans_a_token(client: Client) -> None:
    """The token that greedy decoding takes first does not come when it is banned."""
    first = completed(client, temperature=0, max_tokens=1)["choices"][0]["token_ids"][0]
    banned = completed(client, temperature=0, max_tokens=1, logit_bias={str(first): -100})["choices"][0]["token_ids"][0]
    assert banned != first, f"token {first} came although its bias is -100"
