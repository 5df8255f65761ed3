"""What several integration cases need: optional parameters, and comparisons that allow for rounding.

A parameter that only some servers document is skipped where it is refused or ignored; vLLM documents all that are used here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import httpx
import pytest

from vllm_ci.suites.answers import Answer, document
from vllm_ci.suites.capabilities import REFUSED
from vllm_ci.suites.client import ApiClient, Json, shown
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.verdicts import Fault, Inconclusive

ENDS = ("stop", "length", "content_filter")
"""Finish reasons of an answer without tool calls (OpenAI API reference, "The chat completion object")."""
_LONGEST_WORDS = 4


class EndlessStructureError(Inconclusive):
    """The model did not finish its structured output."""

    cause: ClassVar[Mapping[str, str]] = {"id": "endless-structure", "title": "the model does not finish structured output"}


def required_of_vllm(server: ServerFacts, *, holds: bool, message: str) -> None:
    """Fail on vLLM, which documents this; skip on other servers, where it is optional.

    Raises:
        Fault: It does not hold on vLLM.
    """
    if holds:
        return
    if server.is_vllm:
        raise Fault(message)
    pytest.skip(f"{message}; not every server promises that")


def fields_of(document: Any, path: str) -> frozenset[str]:
    """Names of the fields of a JSON request by an OpenAPI document; empty if it does not say."""
    try:
        schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        if name := schema.get("$ref", "").rpartition("/")[2]:
            schema = document["components"]["schemas"][name]
        return frozenset(schema.get("properties", ()))
    except (LookupError, TypeError, AttributeError):
        return frozenset()


def unless_refused(client: ApiClient, path: str, body: Json, what: str) -> Answer:
    """Request text with an optional parameter; the case is skipped if a server that is not vLLM refuses it."""
    answer = client.sent(path, body)
    if answer.status_code in REFUSED and not client.server.is_vllm:
        pytest.skip(f"the server refuses {what}: {shown(answer)}")
    return taken(answer, path)


def taken(answer: httpx.Response, path: str) -> Answer:
    """The answer of a request that must have succeeded.

    Raises:
        Fault: It did not.
    """
    if answer.status_code != 200:
        raise Fault(f"POST {path}: {shown(answer)}")
    try:
        body = document(answer)
    except ValueError as error:
        raise Fault(f"POST {path}: the answer is no JSON ({error}): {shown(answer)}") from None
    found = Answer(where=f"POST {path}", body=body, is_chat=path.endswith("/chat/completions"))
    found.read(of=dict)
    return found


def too_long(answer: Answer, most: int) -> str:
    """What is wrong with the length of an answer; without usage, words are counted, of which a token holds few."""
    if (count := answer.completion_tokens) is not None:
        return f"requested at most {most} tokens, got {count}" if count > most else ""
    words = len(answer.text.split())
    return f"requested at most {most} tokens, got {words} words" if words > _LONGEST_WORDS * most else ""


def shared(answers: Sequence[Sequence[object]]) -> int:
    """Length of the beginning that all answers have in common."""
    columns = zip(*answers, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


def alike(answers: Sequence[Sequence[object]]) -> bool:
    """Whether answers are the same but for rounding: they share at least the first half.

    Neither OpenAI nor vLLM promises bitwise equal answers (vLLM documentation, "Reproducibility"); sampled tokens differ from
    the first ones on.
    """
    return len(set(map(tuple, answers))) == 1 or 2 * shared(answers) >= min(map(len, answers)) > 0


def repeats(ask: Callable[[], Sequence[Sequence[object]]]) -> bool:
    """Whether answers that should be the same are; they are requested again before they are called different."""
    return alike(ask()) or alike(ask())


def usage(client: ApiClient, answer: Answer, *, tokens: int) -> None:
    """Check the number of tokens of an answer that was requested with :meth:`ApiClient.exactly`.

    Raises:
        Fault: It is another.
    """
    count: Any = answer.completion_tokens
    if not client.counts(count, tokens):
        raise Fault(f"requested {tokens} tokens, got {count}: usage is {answer.body.get('usage')}")
