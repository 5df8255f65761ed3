"""A client of the OpenAI wire format that hides nothing: what it returns is what the server sent, as plain JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from vllm_ci.suites.metrics import Samples, parse

Json = dict[str, Any]
_Result = TypeVar("_Result")
_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True)
class Client:
    """Talks to one server about one model.

    Attributes:
        http: Carries base URL, key and timeouts; safe to use from several threads.
        model: Served name.
    """

    http: httpx.Client
    model: str

    def chat(self, messages: str | Sequence[Mapping[str, Any]], **parameters: Any) -> Json:
        """A chat completion that has to succeed; a string is one user message."""
        return self.must("/v1/chat/completions", {"model": self.model, "messages": said(messages), **parameters})

    def complete(self, prompt: str | Sequence[Any], **parameters: Any) -> Json:
        """A completion that has to succeed."""
        return self.must("/v1/completions", {"model": self.model, "prompt": prompt, **parameters})

    def tokens(self, messages: str | Sequence[Mapping[str, Any]], **parameters: Any) -> list[int]:
        """Token ids of a text as it is, or of messages as the chat template renders them."""
        what = {"prompt": messages} if isinstance(messages, str) else {"messages": list(messages)}
        answer = self.must("/tokenize", {"model": self.model, **what, **parameters})
        return [int(token) for token in answer["tokens"]]

    def text(self, tokens: Sequence[int]) -> str:
        """Text of token ids."""
        return str(self.must("/detokenize", {"model": self.model, "tokens": list(tokens)})["prompt"])

    def metrics(self) -> Samples:
        """What the server counts (Prometheus text format)."""
        answer = self.http.get("/metrics")
        assert answer.status_code == 200, f"GET /metrics: {shown(answer)}"
        return parse(answer.text)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        """Whatever the server answers to a JSON body."""
        return self.http.post(path, json=body, **options)

    def must(self, path: str, body: Any) -> Json:
        """The JSON object of an answer that has to be 200."""
        answer = self.post(path, body)
        assert answer.status_code == 200, f"POST {path}: {shown(answer)}"
        value = answer.json()
        assert isinstance(value, dict), f"POST {path}: the answer is no JSON object but {type(value).__name__}"
        return value

    def works(self) -> None:
        """A small good request succeeds: what came before did the server no harm."""
        answer = self.complete("hello", max_tokens=1, temperature=0)
        assert answer["usage"]["completion_tokens"] == 1, f"a good request afterwards counts {answer['usage']}"


def said(messages: str | Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A list of messages; a string is what a user says."""
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)


def user(text: str) -> Json:
    """A message of the user."""
    return {"role": "user", "content": text}


def system(text: str) -> Json:
    """A system message."""
    return {"role": "system", "content": text}


def assistant(text: str) -> Json:
    """A message of the assistant."""
    return {"role": "assistant", "content": text}


def shown(answer: httpx.Response) -> str:
    """Status and the beginning of the body, for a message."""
    return f"{answer.status_code} {answer.text[:300]}"


def at_once(act: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """``act`` for every item at the same time; results in the order of the items.

    Raises:
        Exception: That of the first item whose call failed.
    """
    todo = list(items)
    with ThreadPoolExecutor(max_workers=max(len(todo), 1)) as pool:
        return list(pool.map(act, todo))
