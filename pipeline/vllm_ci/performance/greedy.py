"""Greedy answers of a server to fixed prompts."""

from __future__ import annotations

from collections.abc import Sequence

from vllm_ci.performance.server import Served

PROMPTS = (
    "Name three rivers in Europe.",
    "Write a function that adds two numbers.",
    "The weather today is",
    "Translate to French: good morning.",
    "List the first ten prime numbers.",
    "Once upon a time there was",
    "Explain what a cache is.",
    "What is the capital of Japan?",
)
TOKENS = 32
Pieces = Sequence[object]
"""One answer: token ids, or characters where the server returns no ids."""


def answers(server: Served) -> list[Pieces]:
    """Answers of :data:`TOKENS` tokens at temperature 0, one at a time, so that no batch changes them.

    Raises:
        Exception: One of :data:`~vllm_ci.performance.server.WRONG`: a request failed, or an answer is empty.
    """
    with server.client() as client:
        given = {**client.exactly(TOKENS), **client.with_ids, "temperature": 0}
        return [list(client.ask(prompt, **given).pieces) for prompt in PROMPTS]
