"""Finds out whether a server mixes up answers: those of simultaneous requests, or an earlier one for another prompt.

Many cases compare answers, and fail for this one reason if it does. Each test has a control: a model may give one answer to
different prompts.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx

from vllm_ci.suites.answers import chunks
from vllm_ci.suites.client import ApiClient, Json, at_once, said
from vllm_ci.suites.verdicts import Fault

SWAPPED: Mapping[str, str] = {
    "id": "answers-swapped",
    "title": "answers of simultaneous requests are swapped",
    "severity": "critical",
    "rule": "OpenAI API reference: an answer is made for the messages or the prompt of its own request; CWE-488",
}
REPEATED: Mapping[str, str] = {
    "id": "answers-repeated",
    "title": "an earlier answer is repeated for another prompt",
    "severity": "critical",
    "rule": "OpenAI API reference: an answer is made for the messages or the prompt of its own request; CWE-524",
}
_TOKENS = 12
_TOGETHER = 6
_ROUNDS = 2
_LEAST_SWAPS = 2
_LEAST_TEXT = 8
"""Shortest text that two prompts do not share by chance."""
Said = tuple[str, int | None]
"""Text of an answer, and the tokens of its prompt if the server counts them."""
Ask = Callable[[str, int], Said]
_LONG = "The quick brown fox jumps over the lazy dog, and then it goes home to sleep until the next morning. "


class MixedUpError(Fault):
    """A server mixes up answers; ``cause`` says how."""

    def __init__(self, cause: Mapping[str, str], message: str) -> None:
        super().__init__(message)
        self.cause = dict(cause)


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Tests for mixed-up answers.

    Attributes:
        client: Client of the server.
    """

    client: ApiClient

    def cause(self) -> Mapping[str, str] | None:
        """What the server does, ``None`` if it does neither, or it cannot be seen."""
        try:
            self.repeated()
            self.swapped()
        except MixedUpError as error:
            return error.cause
        except (Fault, httpx.HTTPError, LookupError, TypeError, ValueError):
            return None
        return None

    def repeated(self) -> None:
        """Ask pairs of new prompts, one after the other, that have different things in common.

        Raises:
            MixedUpError: Prompts get the answer of the one before, and other answers by themselves, in two pairs of a kind.
        """
        for ask in self._ways():
            for pair in _PAIRS.values():
                found = [_repeats(ask, *pair()) for _ in range(2)]
                if all(found):
                    raise MixedUpError(REPEATED, found[0])

    def swapped(self) -> None:
        """Ask prompts alone, and then at the same time.

        Raises:
            MixedUpError: Some get the answer that another one gets alone, more than once.
        """
        for ask in self._ways():
            prompts = [f"{_word()} tell me about number {at}." for at in range(_TOGETHER)]
            alone = [_asked(ask, prompt) for prompt in prompts]
            swaps: list[tuple[int, int]] = []
            for _ in range(_ROUNDS):
                swaps += swaps_of(alone, at_once(partial(_asked, ask), prompts))
            if len(swaps) >= _LEAST_SWAPS and [_asked(ask, prompt) for prompt in prompts] == alone:
                one, other = swaps[0]
                raise MixedUpError(SWAPPED, f"{prompts[one]!r} gets the answer of {prompts[other]!r}, asked at the same time")

    def _ways(self) -> list[Ask]:
        paths = [path for name, path in _PATHS.items() if self.client.server.can(name)]
        return [self._asking(path, stream=stream) for path in paths for stream in (False, True)]

    def _asking(self, path: str, *, stream: bool) -> Ask:
        chat = path == _PATHS["chat"]
        echo = {"echo": True} if not chat and self.client.server.can("echo") else {}

        def ask(prompt: str, tokens: int) -> Said:
            what: Json = {"messages": said(prompt)} if chat else {"prompt": prompt, **echo}
            body = {"model": self.client.model, **what, "temperature": 0, **self.client.exactly(tokens)}
            if not stream:
                found = self.client.answer(path, body)
                return found.text, found.prompt_tokens
            return self._streamed(path, {**body, "stream": True}), None

        return ask

    def _streamed(self, path: str, body: Any) -> str:
        answer = self.client.sent(path, body)
        choices = [choice for chunk in chunks(answer.content) for choice in chunk.get("choices") or ()]
        return "".join(choice.get("text") or (choice.get("delta") or {}).get("content") or "" for choice in choices)


def _asked(ask: Ask, prompt: str) -> Said:
    return ask(prompt, _TOKENS)


def swaps_of(alone: Sequence[Said], together: Sequence[Said]) -> list[tuple[int, int]]:
    """Pairs of places: the answer at the first is the one that the second gets alone, and not its own.

    Batches may round differently than single requests, so an answer that is none of those is no swap.
    """
    return [
        (at, list(alone).index(answer))
        for at, answer in enumerate(together)
        if answer != alone[at] and answer in alone and len(answer[0]) >= _LEAST_TEXT
    ]


def _repeats(ask: Ask, first: str, second: str) -> str:
    """How the answer to the first prompt is repeated for the second one; empty if it is not.

    If both get one answer, the second one is asked once more for another number of tokens, so that nothing can be repeated.
    """
    tokens = _TOKENS + secrets.randbelow(_TOKENS)
    answers = [ask(prompt, tokens) for prompt in (first, second)]
    text, counted = answers[1]
    if answers[0] != answers[1] or len(text) < _LEAST_TEXT:
        return ""
    control, recounted = ask(second, tokens + 1)
    half = len(text) // 2  # the end may differ: rounding, and a character that was cut
    if control[:half] == text[:half] and recounted == counted:
        return ""
    return f"{second[-60:]!r} gets the answer of {first[-60:]!r}, which was asked before: {text[:80]!r}"


def _word() -> str:
    return f"canary-{secrets.token_hex(8)}"


def _same_length() -> tuple[str, str]:
    return f"{_word()} is a word.", f"{_word()} is a word."


def _same_head() -> tuple[str, str]:
    head = f"{_word()} {_LONG}"
    return f"{head}What is {_word()}?", f"{head}Who was {_word()} in the end?"


def _same_end() -> tuple[str, str]:
    end = f" {_LONG}{_word()}"
    return f"Say {_word()}.{end}", f"I know nothing of {_word()}.{end}"


def _nothing_in_common() -> tuple[str, str]:
    return f"{_word()}?", f"My name is {_word()}, and this is what I want to know: {_LONG}"


_PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
_PAIRS = {
    "the same length": _same_length,
    "the same head": _same_head,
    "the same end": _same_end,
    "nothing in common": _nothing_in_common,
}
