"""Concurrent requests keep their own constraints: structure, stop strings, biases and ids are not those of a neighbour.

Engines keep them in tables by the place of a request in a batch, and places change when other requests come and go.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from vllm_ci.suites.answers import Answer
from vllm_ci.suites.client import ApiClient, at_once, shown
from vllm_ci.suites.integration.asking import taken
from vllm_ci.suites.mixing import SWAPPED, MixedUpError
from vllm_ci.suites.verdicts import Fault

_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
_LETTERS = "hxqwzkvj"
_ROUNDS = 2
_REFUSED = (400, 409, 422)


@pytest.mark.requires_capability("structured_outputs_field")
def test_concurrent_structures_are_those_of_their_requests(client: ApiClient) -> None:
    """Each request may say one word only (vLLM's structured_outputs), and says this one."""

    def said(word: str) -> str:
        return client.talk("Say a number.", temperature=0, max_tokens=24, structured_outputs={"choice": [word]}).text.strip()

    for _ in range(_ROUNDS):
        _own(at_once(said, _WORDS), _WORDS, "the only choice of a request")


@pytest.mark.requires_capability("structured_outputs_field")
def test_concurrent_stop_strings_are_those_of_their_requests(client: ApiClient) -> None:
    """All requests must say the same words, and each stops before another one."""
    text = " ".join(("zero", *_WORDS, "nine"))
    expected = [text.partition(word)[0].strip() for word in _WORDS]

    def said(word: str) -> str:
        asked = {"temperature": 0, "max_tokens": 96, "structured_outputs": {"choice": [text]}, "stop": [word]}
        return client.talk("Count.", **asked).text.strip()

    for _ in range(_ROUNDS):
        _own(at_once(said, _WORDS), expected, "the text before the stop string of a request")


@pytest.mark.requires_capability("text", "tokenize", "token_ids", "logit_bias")
def test_concurrent_biases_are_those_of_their_requests(client: ApiClient) -> None:
    """Each request has a bias that forces another token."""
    tokens = [client.tokens(letter, add_special_tokens=False)[-1] for letter in _LETTERS]

    def said(token: int) -> list[int]:
        return client.ask(
            "hello", temperature=0, logit_bias={str(token): 100}, **client.exactly(8), **client.with_ids
        ).token_ids

    expected = [[token] * 8 for token in tokens]
    if [said(token) for token in tokens] != expected:
        pytest.skip("a bias does not force these tokens here; another case checks that")
    for _ in range(_ROUNDS):
        _own(at_once(said, tokens), expected, "the token that a bias forces")


@pytest.mark.requires_capability("text", "usage")
def test_requests_with_one_id_are_kept_apart(client: ApiClient) -> None:
    """Clients and gateways choose ``X-Request-Id``, and may use one twice: for a retry, or for all calls of one task.

    The second one may be refused.
    """
    numbers = (4, 12, 24, 48)

    def ask(number: int, **headers: str) -> Answer | None:
        body = client.body("hello " * number, **client.exactly(number))
        answer = client.sent(client.path, body, headers=headers)
        if headers and answer.status_code in _REFUSED:
            return None
        if answer.status_code >= 500:
            raise Fault(f"one of several requests with the same X-Request-Id is answered {shown(answer)}")
        return taken(answer, client.path)

    expected = {number: _prompt_of(ask(number)) for number in numbers}
    for at in range(_ROUNDS):
        answers = at_once(lambda number, name=f"vllm-ci-{at}": ask(number, **{"X-Request-Id": name}), numbers)  # type: ignore[misc]
        for number, answer in zip(numbers, answers, strict=True):
            if answer is None:
                continue
            if (found := answer.prompt_tokens) != expected[number]:
                raise MixedUpError(
                    SWAPPED, f"with the X-Request-Id of other requests, {expected[number]} prompt tokens are counted as {found}"
                )
            made = answer.completion_tokens
            assert client.counts(made, number), f"with the X-Request-Id of other requests, {number} tokens are {made}"


def _prompt_of(answer: Answer | None) -> int | None:
    return answer.prompt_tokens if answer is not None else None


def _own(found: Sequence[object], expected: Sequence[object], what: str) -> None:
    """Check that each request got what it asked for.

    Raises:
        MixedUpError: One got what another one asked for.
    """
    for mine, wanted in zip(found, expected, strict=True):
        if mine != wanted and mine in expected:
            raise MixedUpError(SWAPPED, f"{what} is {wanted!r}, but its answer is that of another request: {mine!r}")
        assert mine == wanted, f"{what} is {wanted!r}, but its answer beside others is {mine!r}"
