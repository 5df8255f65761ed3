"""Temperature, seed and the other sampling parameters have the documented effect."""

from __future__ import annotations

import pytest

from vllm_ci.suites.client import ApiClient, Json
from vllm_ci.suites.work import Sizes

pytestmark = pytest.mark.requires_capability("completions")

_PROMPT = "Once upon a time there was"
_FIXED = pytest.mark.sized(tokens=(16, 8))
_DRAWN = pytest.mark.sized(tokens=(32, 12), times=(6, 3))


def said(client: ApiClient, **parameters: object) -> object:
    """The generated token ids if the server returns them, otherwise the text."""
    choice = completed(client, **parameters)["choices"][0]
    return tuple(choice["token_ids"]) if choice.get("token_ids") else choice["text"]


def completed(client: ApiClient, **parameters: object) -> Json:
    """An answer of a fixed length, not ended by the end-of-text token."""
    known = {"ignore_eos": True, "return_token_ids": True}
    return client.complete(_PROMPT, **{**known, **parameters})


@_FIXED
def test_temperature_zero_repeats_token_by_token(client: ApiClient, size: Sizes) -> None:
    """Sequential requests with greedy decoding give the same tokens every time."""
    answers = {said(client, temperature=0, max_tokens=size.tokens) for _ in range(3)}
    assert len(answers) == 1, f"3 greedy requests with the same prompt gave {len(answers)} different answers"


@_FIXED
def test_temperature_zero_does_not_depend_on_the_seed(client: ApiClient, size: Sizes) -> None:
    """Nothing is sampled at temperature 0."""
    answers = {said(client, temperature=0, seed=seed, max_tokens=size.tokens) for seed in (1, 2, 3)}
    assert len(answers) == 1, f"greedy requests with 3 seeds gave {len(answers)} different answers"


@pytest.mark.parametrize("temperature", [0.5, 1.0])
@_FIXED
def test_the_same_seed_repeats_the_answer(client: ApiClient, size: Sizes, temperature: float) -> None:
    """A seed makes a sampled answer reproducible; evaluations and bug reports depend on it."""
    answers = {said(client, temperature=temperature, seed=1234, max_tokens=size.tokens) for _ in range(3)}
    assert len(answers) == 1, (
        f"3 requests with the same seed at temperature {temperature} gave {len(answers)} different answers"
    )


@_DRAWN
def test_different_seeds_differ_at_temperature_one(client: ApiClient, size: Sizes) -> None:
    """Detects a server that ignores the seed or the temperature."""
    answers = {said(client, temperature=1.0, seed=seed, max_tokens=size.tokens) for seed in range(size.times)}
    assert len(answers) > 1, f"{size.times} different seeds at temperature 1 gave the same answer of {size.tokens} tokens"


@_DRAWN
def test_without_a_seed_answers_vary_at_temperature_one(client: ApiClient, size: Sizes) -> None:
    """Without a seed, sampling must not always give the same answer."""
    answers = {said(client, temperature=1.0, max_tokens=size.tokens) for _ in range(size.times)}
    assert len(answers) > 1, (
        f"{size.times} requests without a seed at temperature 1 gave the same answer of {size.tokens} tokens"
    )


@_FIXED
def test_a_higher_temperature_strays_further_from_the_greedy_answer(client: ApiClient, size: Sizes) -> None:
    """Near 0 most answers are greedy, at 2 most are random; detects a temperature without effect."""
    greedy = said(client, temperature=0, max_tokens=size.tokens)
    cold = [said(client, temperature=0.01, seed=seed, max_tokens=size.tokens) == greedy for seed in range(6)]
    hot = [said(client, temperature=2.0, seed=seed, max_tokens=size.tokens) == greedy for seed in range(6)]
    assert sum(cold) > sum(hot), f"of 6 answers {sum(cold)} are greedy at 0.01 and {sum(hot)} at 2.0"


@_FIXED
def test_a_tiny_top_p_leaves_only_the_likeliest_token(client: ApiClient, size: Sizes) -> None:
    """With only one token to sample from, decoding is greedy."""
    greedy = said(client, temperature=0, max_tokens=size.tokens)
    answers = {said(client, temperature=1.0, top_p=1e-6, seed=seed, max_tokens=size.tokens) for seed in (1, 2)}
    assert answers == {greedy}, "top_p=1e-6 at temperature 1 does not give the greedy answer"


@_FIXED
def test_top_k_one_leaves_only_the_likeliest_token(client: ApiClient, size: Sizes) -> None:
    """With vLLM's top_k=1 there is one candidate, so decoding is greedy."""
    greedy = said(client, temperature=0, max_tokens=size.tokens)
    answers = {said(client, temperature=1.0, top_k=1, seed=seed, max_tokens=size.tokens) for seed in (1, 2)}
    assert answers == {greedy}, "top_k=1 at temperature 1 does not give the greedy answer"


@_FIXED
def test_n_gives_that_many_choices(client: ApiClient, size: Sizes) -> None:
    """The choices have the indices 0 to n-1, each once."""
    choices = completed(client, n=3, temperature=1.0, max_tokens=size.tokens)["choices"]
    indices = sorted(choice["index"] for choice in choices)
    assert indices == [0, 1, 2], f"n=3 gave choices with the indices {indices}"


@pytest.mark.sized(tokens=(32, 12))
def test_the_choices_of_one_request_differ(client: ApiClient, size: Sizes) -> None:
    """At temperature 1 the choices must not all be the same."""
    choices = completed(client, n=4, temperature=1.0, max_tokens=size.tokens)["choices"]
    texts = {choice["text"] for choice in choices}
    assert len(texts) > 1, f"n=4 at temperature 1 gave the same answer of {size.tokens} tokens 4 times"


@pytest.mark.requires_capability("tokenize")
def test_logit_bias_forces_a_token(client: ApiClient) -> None:
    """A bias of 100 forces a token in practice."""
    token = client.tokens("h")[-1]
    text = completed(client, temperature=0, max_tokens=4, logit_bias={str(token): 100})["choices"][0]["text"]
    assert text == client.text([token] * 4), f"a bias of 100 for {client.text([token])!r} gave {text!r}"


@pytest.mark.requires_capability("token_ids")
def test_logit_bias_bans_a_token(client: ApiClient) -> None:
    """The first greedy token is not generated with a bias of -100."""
    first = completed(client, temperature=0, max_tokens=1)["choices"][0]["token_ids"][0]
    banned = completed(client, temperature=0, max_tokens=1, logit_bias={str(first): -100})["choices"][0]["token_ids"][0]
    assert banned != first, f"token {first} was generated although its bias is -100"
