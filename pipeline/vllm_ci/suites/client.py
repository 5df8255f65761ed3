"""A client for the OpenAI wire format that returns the server's JSON unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from vllm_ci.suites.metrics import Samples, parse

if TYPE_CHECKING:
    from vllm_ci.suites.server import ServerFacts

Json = dict[str, Any]
_Result = TypeVar("_Result")
_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True)
class ApiClient:
    """Sends requests for one model to one server.

    Attributes:
        http: HTTP client with base URL, key and timeouts; can be used from several threads.
        model: Served name.
        server: What it supports; requests use only that.
    """

    http: httpx.Client
    model: str
    server: ServerFacts

    @property
    def is_chat(self) -> bool:
        """Whether :meth:`ask` uses chat, because the server has no completions."""
        return not self.server.can("completions")

    @property
    def path(self) -> str:
        """The path that :meth:`ask` uses."""
        return "/v1/chat/completions" if self.is_chat else "/v1/completions"

    def exactly(self, tokens: int) -> Json:
        """Parameters for an answer of this many tokens; of at most this many if the server has no ``ignore_eos``."""
        return {"max_tokens": tokens, **({"ignore_eos": True} if self.server.can("ignore_eos") else {})}

    def counts(self, found: int, asked: int) -> bool:
        """Whether a number of tokens is right for :meth:`exactly`."""
        return found == asked if self.server.can("ignore_eos") else 0 <= found <= asked

    def body(self, prompt: str, **parameters: Any) -> Json:
        """The body of a request for text on the surface that the server has."""
        what: Json = {"messages": said(prompt)} if self.is_chat else {"prompt": prompt}
        return {"model": self.model, **what, **parameters}

    def ask(self, prompt: str, **parameters: Any) -> Answer:
        """Request text on the surface that the server has; it must succeed."""
        return Answer(body=self.must(self.path, self.body(prompt, **parameters)), is_chat=self.is_chat)

    def smallest(self, **options: Any) -> httpx.Response:
        """Send the smallest valid request; returns the response, whatever its status."""
        if self.server.can("completions") or self.server.can("chat"):
            return self.post(self.path, self.body("hello", max_tokens=1, temperature=0), **options)
        return self.post("/v1/embeddings", {"model": self.model, "input": "hello"}, **options)

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
        answer = self.smallest()
        assert answer.status_code == 200, f"a valid request afterwards is answered {shown(answer)}"
        counted = (answer.json().get("usage") or {}).get("completion_tokens", 1)
        assert counted <= 1, f"a valid request for one token afterwards has {counted}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer in text, of either surface.

    Attributes:
        body: The JSON object.
        is_chat: It is an answer of chat.
    """

    body: Json
    is_chat: bool

    @property
    def choice(self) -> Json:
        """The first choice."""
        found: Json = self.body["choices"][0]
        return found

    @property
    def text(self) -> str:
        """Its text; empty if it is null."""
        return str((self.choice["message"]["content"] if self.is_chat else self.choice["text"]) or "")

    @property
    def finish_reason(self) -> str | None:
        """Why it ended."""
        found: str | None = self.choice["finish_reason"]
        return found

    @property
    def completion_tokens(self) -> int | None:
        """Tokens of the answer by its usage; ``None`` without usage."""
        found: int | None = (self.body.get("usage") or {}).get("completion_tokens")
        return found


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
