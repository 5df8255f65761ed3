"""Parameters that change an answer change a stream in the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from vllm_ci.loadgen.exchange import Exchange
from vllm_ci.suites.capabilities import REFUSED
from vllm_ci.suites.client import ApiClient
from vllm_ci.suites.streaming.asking import Asking, Endpoint, unlike, usage_of
from vllm_ci.suites.streaming.test_sameness import same
from vllm_ci.suites.work import Sizes

pytestmark = pytest.mark.compares_answers

_PROMPT = "the quick brown fox"
_LETTERS = "hxqw"
_PARAMETERS: Mapping[str, Callable[[list[int]], dict[str, Any]]] = {
    "top_p": lambda _: {"top_p": 0.2},
    "top_k": lambda _: {"top_k": 1},
    "min_p": lambda _: {"min_p": 1.0},
    "frequency_penalty": lambda _: {"frequency_penalty": 2.0},
    "presence_penalty": lambda _: {"presence_penalty": 2.0},
    "repetition_penalty": lambda _: {"repetition_penalty": 4.0},
    "logit_bias": lambda tokens: {"logit_bias": {str(tokens[0]): 80}},
    "bad_words": lambda _: {"bad_words": ["h", "x"]},
    "allowed_token_ids": lambda tokens: {"allowed_token_ids": tokens[:2]},
    "stop_token_ids": lambda tokens: {"stop_token_ids": tokens[:1]},
    "min_tokens": lambda tokens: {"stop_token_ids": tokens[:2], "min_tokens": 5},
    "max_completion_tokens": lambda _: {"max_completion_tokens": 3},
    "truncate_prompt_tokens": lambda _: {"truncate_prompt_tokens": 2},
}


@pytest.fixture(scope="module")
def plain() -> dict[str, tuple[object, int | None]]:
    """What each endpoint answers without the parameter; requested once for all of them."""
    return {}


@pytest.mark.requires_capability("tokenize", "token_ids", "logit_bias", "seed", "temperature")
@pytest.mark.parametrize("parameter", _PARAMETERS)
@pytest.mark.sized(tokens=(12, 8))
def test_a_parameter_reaches_a_stream(
    ask: Asking, endpoint: Endpoint, client: ApiClient, plain: dict[str, tuple[object, int | None]], size: Sizes, parameter: str
) -> None:
    """The answers with it are the same with and without streaming; a bias leaves four tokens to choose from."""
    tokens = [client.tokens(letter, add_special_tokens=False)[-1] for letter in _LETTERS]
    base = {"temperature": 2.0, "seed": 11, "logit_bias": dict.fromkeys(map(str, tokens), 40)}
    body = endpoint.exactly(_PROMPT, size.tokens, **{**base, **_PARAMETERS[parameter](tokens)})
    answer = ask.recorder.post(endpoint.path, body)
    if answer.status in REFUSED and not endpoint.server.is_vllm:
        pytest.skip(f"the server refuses {parameter}: {answer.text[:100]}")
    assert answer.ok, answer.describe()
    if endpoint.name not in plain:
        plain[endpoint.name] = _content(endpoint, ask.whole(endpoint, endpoint.exactly(_PROMPT, size.tokens, **base)))
    if _content(endpoint, answer) == plain[endpoint.name]:
        pytest.skip(f"{parameter} changes nothing without streaming either; a case of another suite checks its effect")
    stream = ask.stream(endpoint, body)
    unlike(endpoint.said(answer), endpoint.said(ask.whole(endpoint, body)))
    same(stream, answer, endpoint)


def _content(endpoint: Endpoint, answer: Exchange) -> tuple[object, int | None]:
    """What a parameter may change: the text, its tokens, and the length of the prompt."""
    return endpoint.said(answer), usage_of(answer, "prompt_tokens")
