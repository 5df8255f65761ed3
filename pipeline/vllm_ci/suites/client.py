"""A client for the OpenAI wire format that returns the server's JSON unchanged."""

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
class ApiClient:
    """Sends requests for one model to one server.

    Attributes:
        http: HTTP client with base URL, key and timeouts; can be used from several threads.
        model: Served name.
    """

    http: httpx.Client
    model: str

    def chat(self, messages: str | Sequence[Mapping[str, Any]], **parameters: Any) -> Json:
        """Request a chat completion that must succeed; a string is sent as one user message."""
        return self.must("/v1/chat/completions", {"model": self.model, "messages": said(messages), **parameters})

    def complete(self, prompt: str | Sequence[Any], **parameters: Any) -> Json:
        """Request a completion that must succeed."""
        return self.must("/v1/completions", {"model": self.model, "prompt": prompt, **parameters})

    def tokens(self, messages: str | Sequence[Mapping[str, Any]], **parameters: Any) -> list[int]:
        """Token ids of a text, or of messages rendered by the chat template."""
        what = {"prompt": messages} if isinstance(messages, str) else {"messages": list(messages)}
        answer = self.must("/tokenize", {"model": self.model, **what, **parameters})
        return [int(token) for token in answer["tokens"]]

    def text(self, tokens: Sequence[int]) -> str:
        """Text of token ids."""
        return str(self.must("/detokenize", {"model": self.model, "tokens": list(tokens)})["prompt"])

    def metrics(self) -> Samples:
        """The server's metrics (Prometheus text format)."""
        answer = self.http.get("/metrics")
        assert answer.status_code == 200, f"GET /metrics: {shown(answer)}"
        return parse(answer.text)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        """POST a JSON body; returns the response, whatever its status."""
        return self.http.post(path, json=body, **options)

    def must(self, path: str, body: Any) -> Json:
        """POST a JSON body; returns the JSON object of the response, which must be 200."""
        answer = self.post(path, body)
        assert answer.status_code == 200, f"POST {path}: {shown(answer)}"
        value = answer.json()
        assert isinstance(value, dict), f"POST {path}: the response is {type(value).__name__}, not a JSON object"
        return value

    def works(self) -> None:
        """Check that the server still works: a small valid request must succeed."""
        answer = self.complete("hello", max_tokens=1, temperature=0)
        assert answer["usage"]["completion_tokens"] == 1, f"a valid request afterwards has the usage {answer['usage']}"


def said(messages: str | Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A list of messages; a string becomes one user message."""
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)


def user(text: str) -> Json:
    """A user message."""
    return {"role": "user", "content": text}


def system(text: str) -> Json:
    """A system message."""
    return {"role": "system", "content": text}


def assistant(text: str) -> Json:
    """An assistant message."""
    return {"role": "assistant", "content": text}


def shown(answer: httpx.Response) -> str:
    """Status and start of the body, for messages."""
    return f"{answer.status_code} {answer.text[:300]}"


def at_once(act: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Call ``act`` for all items concurrently; results in the order of the items.

    Raises:
        Exception: The exception of the first item whose call failed.
    """
    todo = list(items)
    with ThreadPoolExecutor(max_workers=max(len(todo), 1)) as pool:
        return list(pool.map(act, todo))
