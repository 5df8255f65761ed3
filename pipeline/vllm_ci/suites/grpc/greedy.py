"""Whether answers are greedy: each token is the likeliest one, or one of several that are equally likely.

In half precision the two likeliest tokens are often equal, and an engine may take one of them in one batch, and the other one
in another. So where two greedy answers differ, they are asked for again with log probabilities, which decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vllm_ci.suites.grpc.answer import Answer, agree
from vllm_ci.suites.grpc.client import Engine

_EQUAL = 1e-3

Ask = Callable[[Mapping[str, object]], Sequence[Answer]]
"""Sends requests that should all get the greedy answer to one prompt, with more sampling parameters."""


def differences(engine: Engine, ask: Ask) -> str:
    """What is not greedy about answers to one prompt; empty if nothing is."""
    first, *others = (answer.served().tokens() for answer in ask({}))
    wrong = next((tokens for tokens in others if not agree(first, tokens)), None)
    if wrong is None or (len(wrong) == len(first) and engine.samples("logprobs") and all(map(likeliest, ask({"logprobs": 1})))):
        return ""
    return f"{len(first)} tokens, {first}, and {len(wrong)} tokens, {wrong}"


def likeliest(answer: Answer) -> bool:
    """Whether each token of an answer with log probabilities is as likely as the likeliest candidate."""
    parts = answer.served().pieces if answer.streamed else answer.ends
    found = [
        (value, max(top.values, default=float("inf")))
        for part in parts
        for value, top in zip(
            part.message.output_logprobs.token_logprobs, part.message.output_logprobs.top_logprobs, strict=False
        )
    ]
    return len(found) == len(answer.tokens()) and all(value >= best - _EQUAL for value, best in found)
