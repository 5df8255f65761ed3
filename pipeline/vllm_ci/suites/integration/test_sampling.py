"""Temperature, seed and the other sampling parameters have the documented effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pytest

from vllm_ci.suites.answers import Answer
from vllm_ci.suites.client import ApiClient, Json, at_once
from vllm_ci.suites.integration.asking import repeats, required_of_vllm, shared, unless_refused
from vllm_ci.suites.integration.greedy import is_greedy, likeliest_tokens, with_candidates
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.work import Sizes

pytestmark = pytest.mark.requires_capability("text")

_PROMPT = "Once upon a time there was"
_PROMPTS = (_PROMPT, "The first thing to know is", "Early in the morning they", "A list of numbers:")
_COLD_AND_HOT = (0.01, 1.9)
_FIXED = pytest.mark.sized(tokens=(16, 8))
_DRAWN = pytest.mark.sized(tokens=(32, 12), times=(6, 3))
Pieces = tuple[object, ...]


def said(client: ApiClient, tokens: int, *, prompt: str = _PROMPT, **parameters: object) -> Pieces:
    """The generated token ids if the server returns them, otherwise the text."""
    return client.ask(prompt, **client.exactly(tokens), **client.with_ids, **parameters).pieces


def greedy(client: ApiClient, tokens: int, *asked: Mapping[str, float]) -> bool:
    """Whether a greedy answer and those with these fields are all greedy."""

    def ask(more: Json) -> list[Answer]:
        fields = {**client.exactly(tokens), **client.with_ids, **more}
        every: list[Mapping[str, float]] = [{"temperature": 0}, *asked]
        return at_once(lambda own: client.ask(_PROMPT, **fields, **own), every)

    return is_greedy(client, client.path, ask)


@pytest.mark.requires_capability("temperature")
@_FIXED
def test_temperature_zero_repeats_token_by_token(client: ApiClient, size: Sizes) -> None:
    """Requests with greedy decoding give the same tokens, but for rounding."""
    assert greedy(client, size.tokens, {"temperature": 0}), (
        "greedy requests with the same prompt gave different answers from the first tokens on"
    )


@pytest.mark.requires_capability("temperature")
@pytest.mark.requires_capability("seed")
@_FIXED
def test_temperature_zero_does_not_depend_on_the_seed(client: ApiClient, size: Sizes) -> None:
    """Nothing is sampled at temperature 0."""
    seeded = [{"temperature": 0, "seed": seed} for seed in (1, 2, 3)]
    assert greedy(client, size.tokens, *seeded), "greedy requests with 3 seeds gave different answers from the first tokens on"


@pytest.mark.requires_capability("seed")
@pytest.mark.parametrize("temperature", [0.5, 1.0])
@_FIXED
def test_the_same_seed_repeats_the_answer(client: ApiClient, size: Sizes, temperature: float) -> None:
    """A seed makes a sampled answer reproducible, but for rounding; evaluations and bug reports depend on it."""
    same = repeats(lambda: at_once(lambda _: said(client, size.tokens, temperature=temperature, seed=1234), range(2)))
    assert same, f"requests with the same seed at temperature {temperature} gave different answers from the first tokens on"


@pytest.mark.requires_capability("seed")
@_DRAWN
def test_different_seeds_differ_at_temperature_one(client: ApiClient, size: Sizes) -> None:
    """Detects a server that ignores the seed or the temperature."""
    answers = set(at_once(lambda seed: said(client, size.tokens, temperature=1.0, seed=seed), range(size.times)))
    assert len(answers) > 1, f"{size.times} different seeds at temperature 1 gave the same answer of {size.tokens} tokens"


@_DRAWN
def test_without_a_seed_answers_vary_at_temperature_one(client: ApiClient, size: Sizes) -> None:
    """Without a seed, sampling must not always give the same answer."""
    answers = set(at_once(lambda _: said(client, size.tokens, temperature=1.0), range(size.times)))
    assert len(answers) > 1, (
        f"{size.times} requests without a seed at temperature 1 gave the same answer of {size.tokens} tokens"
    )


@pytest.mark.requires_capability("temperature")
@pytest.mark.compares_answers
@pytest.mark.sized(tokens=(16, 8), times=(6, 4))
def test_a_higher_temperature_strays_further_from_the_greedy_answer(client: ApiClient, size: Sizes) -> None:
    """Near 0 answers follow the greedy one for longer than at 1.9; detects a temperature without effect."""
    body = client.body(_PROMPT, temperature=1.9, max_tokens=1)
    unless_refused(client, client.path, body, "a temperature of 1.9")  # some servers allow 1 at most
    cold, hot = near_greedy(client, size, [_PROMPT])
    if cold <= hot:  # half precision: one of several equally likely tokens comes at once, and not the same one each time
        cold, hot = likeliest_of_all(client, size) or near_greedy(client, size, _PROMPTS)
    assert cold > hot, f"answers at a temperature of 0.01 have {cold} tokens in common with greedy ones, and {hot} at 1.9"


def near_greedy(client: ApiClient, size: Sizes, prompts: Sequence[str]) -> tuple[int, int]:
    """How many pieces answers to these prompts share with the greedy ones, at 0.01 and at 1.9."""
    likely = {prompt: said(client, size.tokens, prompt=prompt, temperature=0) for prompt in prompts}

    def near(temperature: float, prompt: str) -> int:
        return shared([likely[prompt], said(client, size.tokens, prompt=prompt, temperature=temperature)])

    cold, hot = (sum(at_once(partial(near, temperature), [*prompts] * size.times)) for temperature in _COLD_AND_HOT)
    return cold, hot


def likeliest_of_all(client: ApiClient, size: Sizes) -> tuple[int, int] | None:
    """How many tokens of answers at 0.01 and at 1.9 are the likeliest ones; None if the server has no log probabilities."""
    if not (fields := with_candidates(client, client.path)):
        return None

    def likely(temperature: float) -> int:
        return likeliest_tokens(client.ask(_PROMPT, **client.exactly(size.tokens), **fields, temperature=temperature))

    cold, hot = (sum(at_once(likely, [temperature] * size.times)) for temperature in _COLD_AND_HOT)
    return cold, hot


@pytest.mark.requires_capability("temperature")
@pytest.mark.compares_answers
@_FIXED
def test_a_tiny_top_p_leaves_only_the_likeliest_token(client: ApiClient, size: Sizes) -> None:
    """With only one token to sample from, decoding is greedy."""
    same = greedy(client, size.tokens, *[{"temperature": 1.0, "top_p": 1e-6}] * 2)
    assert same, "top_p=1e-6 at temperature 1 does not give the greedy answer"


@pytest.mark.requires_capability("temperature")
@pytest.mark.compares_answers
@_FIXED
def test_top_k_one_leaves_only_the_likeliest_token(client: ApiClient, server: ServerFacts, size: Sizes) -> None:
    """With vLLM's top_k=1 there is one candidate, so decoding is greedy."""
    unless_refused(client, client.path, client.body(_PROMPT, top_k=1, max_tokens=1), "top_k")
    same = greedy(client, size.tokens, *[{"temperature": 1.0, "top_k": 1}] * 2)
    required_of_vllm(server, holds=same, message="top_k=1 at temperature 1 does not give the greedy answer")


@pytest.mark.requires_capability("choices")
@_FIXED
def test_n_gives_that_many_choices(client: ApiClient, size: Sizes) -> None:
    """The choices have the indices 0 to n-1, each once."""
    choices = client.ask(_PROMPT, n=3, temperature=1.0, **client.exactly(size.tokens)).choices
    indices = sorted(choice.get("index", -1) for choice in choices)
    assert indices == [0, 1, 2], f"n=3 gave choices with the indices {indices}"


@pytest.mark.requires_capability("choices")
@pytest.mark.sized(tokens=(32, 12))
def test_the_choices_of_one_request_differ(client: ApiClient, size: Sizes) -> None:
    """At temperature 1 the choices must not all be the same."""
    texts = client.ask(_PROMPT, n=4, temperature=1.0, **client.exactly(size.tokens)).texts
    assert len(set(texts)) > 1, f"n=4 at temperature 1 gave the same answer of {size.tokens} tokens {len(texts)} times"


@pytest.mark.requires_capability("choices", "seed")
@pytest.mark.sized(tokens=(32, 12))
def test_the_choices_of_a_seeded_request_differ(client: ApiClient, server: ServerFacts, size: Sizes) -> None:
    """A seed must not make all choices the same: vLLM draws each with a seed of its own."""
    texts = client.ask(_PROMPT, n=3, temperature=1.0, seed=11, **client.exactly(size.tokens)).texts
    same = f"n=3 with a seed at temperature 1 gave the same answer of {size.tokens} tokens {len(texts)} times"
    required_of_vllm(server, holds=len(set(texts)) > 1, message=same)


@pytest.mark.requires_capability("completions", "token_prompts", "tokenize", "token_ids", "logit_bias")
def test_a_frequency_penalty_does_not_count_the_prompt(client: ApiClient, server: ServerFacts) -> None:
    """VLLM subtracts it for tokens of the generated text only (vLLM documentation, "Sampling Parameters")."""
    token = client.tokens("h", add_special_tokens=False)[-1]
    asked = {"temperature": 0, "max_tokens": 2, "logit_bias": {str(token): 40}, **client.with_ids}
    forced, penalized = (client.finish([token] * 64, frequency_penalty=penalty, **asked).token_ids[:1] for penalty in (0, 2.0))
    if forced != [token]:
        pytest.skip(f"a bias does not force the token {token} here: {forced}")
    message = f"a bias forces a token, but not with frequency_penalty=2 where the prompt has it 64 times: {penalized}"
    required_of_vllm(server, holds=penalized == [token], message=message)


@pytest.mark.requires_capability("tokenize", "logit_bias")
def test_logit_bias_forces_a_token(client: ApiClient, server: ServerFacts) -> None:
    """A bias of 100 forces a token in practice."""
    token = client.tokens("h", add_special_tokens=False)[-1]
    text = client.ask(_PROMPT, temperature=0, logit_bias={str(token): 100}, **client.exactly(4)).text
    forced = client.text([token] * 4)
    required_of_vllm(server, holds=text.strip() == forced.strip(), message=f"a bias of 100 for {forced!r} gave {text!r}")


@pytest.mark.requires_capability("token_ids", "logit_bias")
def test_logit_bias_bans_a_token(client: ApiClient, server: ServerFacts) -> None:
    """The first greedy token is not generated with a bias of -100."""
    first = said(client, 1, temperature=0)
    banned = said(client, 1, temperature=0, logit_bias={str(first[0]): -100}) if first else first
    required_of_vllm(server, holds=banned != first, message=f"token {first} was generated although its bias is -100")
