"""Whether answers are greedy: each token is the likeliest one, or one of several that are equally likely.

Half precision rounds logits so coarsely that the two likeliest tokens are often equal. Engines may then take one of them at
temperature 0, and another one with one candidate left, or in another batch. vLLM 0.25.1 in bfloat16 on an H200 did: with
``top_k=1`` it took the other one of two tokens whose log probabilities were both -3.9639.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vllm_ci.suites.answers import Answer
from vllm_ci.suites.client import ApiClient, Json
from vllm_ci.suites.integration.asking import alike, repeats
from vllm_ci.suites.verdicts import Fault

_EQUAL = 1e-3
_ROUNDS = 4
"""Without log probabilities: two answers of four rounds at least that follow the greedy one are hardly ever drawn."""

Ask = Callable[[Json], Sequence[Answer]]
"""Sends requests that should all get the greedy answer, with more fields; the first is one with temperature 0."""


def is_greedy(client: ApiClient, path: str, ask: Ask) -> bool:
    """Whether all answers are greedy.

    Args:
        client: The client.
        path: That the requests go to.
        ask: Sends them.
    """
    if repeats(lambda: [answer.pieces for answer in ask({})]):
        return True
    if fields := with_candidates(client, path):
        return all(likeliest(answer) for answer in ask(fields))
    return any(_some_follow(ask) for _ in range(_ROUNDS))


def with_candidates(client: ApiClient, path: str) -> Json:
    """Fields that have the server return the likeliest candidate for each token; empty if it cannot."""
    if path.endswith("/chat/completions"):
        return {"logprobs": True, "top_logprobs": 1} if client.server.can("logprobs") else {}
    return {"logprobs": 1} if client.server.can("completion_logprobs") else {}


def _some_follow(ask: Ask) -> bool:
    """Whether one of the answers is like the greedy one: they leave it only where tokens are equally likely."""
    first, *others = (answer.pieces for answer in ask({}))
    return any(alike([first, other]) for other in others)


def likeliest(answer: Answer) -> bool:
    """Whether each token of an answer with log probabilities is as likely as the likeliest candidate."""
    found = _are_likeliest(answer)
    return bool(found) and all(found)


def likeliest_tokens(answer: Answer) -> int:
    """How many tokens of an answer with log probabilities are as likely as the likeliest candidate."""
    return sum(_are_likeliest(answer))


def _are_likeliest(answer: Answer) -> list[bool]:
    found = _of_chat(answer) if answer.is_chat else _of_completion(answer)
    return [value >= max(candidates, default=value) - _EQUAL for value, candidates in found]


def _of_chat(answer: Answer) -> list[tuple[float, list[float]]]:
    content = answer.read("choices", 0, "logprobs", "content", of=list)
    try:
        return [(each["logprob"], [other["logprob"] for other in each["top_logprobs"]]) for each in content]
    except (KeyError, TypeError) as error:
        raise Fault(f"{answer.where}: an entry of choices[0].logprobs.content has no {error}") from None


def _of_completion(answer: Answer) -> list[tuple[float, list[float]]]:
    values: list[Any] = answer.read("choices", 0, "logprobs", "token_logprobs", of=list)
    tops: list[Any] = answer.read("choices", 0, "logprobs", "top_logprobs", of=list)
    return [
        (value, list(top.values()))
        for value, top in zip(values, tops, strict=False)
        if isinstance(value, int | float) and isinstance(top, dict)
    ]
