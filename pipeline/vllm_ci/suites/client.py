"""A client for the OpenAI wire format that returns the server's JSON unchanged."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from vllm_ci.suites.answers import Answer, Json, document, read
from vllm_ci.suites.metrics import Samples, parse
from vllm_ci.suites.refusals import RefusedAloneError, asks_to_wait
from vllm_ci.suites.verdicts import Fault

if TYPE_CHECKING:
    from vllm_ci.suites.server import ServerFacts

__all__ = ["Answer", "ApiClient", "Json", "assistant", "at_once", "said", "shown", "system", "user"]

_CHAT = "/v1/chat/completions"
_COMPLETIONS = "/v1/completions"
_Result = TypeVar("_Result")
_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True)
class ApiClient:
    """Sends requests for one model to one server.

    Attributes:
        http: HTTP client with base URL, key and timeouts; can be used from several threads.
        model: Served name.
        server: What it supports; requests use only that.
        exchanges: The last answer, or the last request if it had none, for reports.
    """

    http: httpx.Client
    model: str
    server: ServerFacts
    exchanges: deque[httpx.Response | httpx.Request] = field(default_factory=lambda: deque(maxlen=1), compare=False)

    @property
    def is_chat(self) -> bool:
        """Whether :meth:`ask` uses chat, because the server has no completions."""
        return not self.server.can("completions")

    @property
    def path(self) -> str:
        """The path that :meth:`ask` uses."""
        return _CHAT if self.is_chat else _COMPLETIONS

    @property
    def with_ids(self) -> Json:
        """Parameters that make the server return token ids, if it can."""
        return {"return_token_ids": True} if self.server.can("token_ids") else {}

    def exactly(self, tokens: int) -> Json:
        """Parameters for an answer of this many tokens; of at most this many if the server has no ``ignore_eos``."""
        return {"max_tokens": tokens, **({"ignore_eos": True} if self.server.can("ignore_eos") else {})}

    def counts(self, found: int | None, asked: int) -> bool:
        """Whether a number of tokens is right for :meth:`exactly`; ``None`` for an answer that has no usage."""
        if found is None:
            return not self.server.can("usage")
        return found == asked if self.server.can("ignore_eos") else 0 <= found <= asked

    def body(self, prompt: str, **parameters: Any) -> Json:
        """The body of a request for text on the surface that the server has."""
        what: Json = {"messages": said(prompt)} if self.is_chat else {"prompt": prompt}
        return {"model": self.model, **what, **parameters}

    def ask(self, prompt: str, **parameters: Any) -> Answer:
        """Request text on the surface that the server has; it must succeed."""
        return self.answer(self.path, self.body(prompt, **parameters))

    def talk(self, messages: str | Sequence[Mapping[str, Any]], **parameters: Any) -> Answer:
        """Request a chat completion that must succeed; a string is sent as one user message."""
        return self.answer(_CHAT, {"model": self.model, "messages": said(messages), **parameters})

    def finish(self, prompt: str | Sequence[Any], **parameters: Any) -> Answer:
        """Request a completion that must succeed."""
        return self.answer(_COMPLETIONS, {"model": self.model, "prompt": prompt, **parameters})

    def answer(self, path: str, body: Any) -> Answer:
        """Request text; it must succeed, with a choice."""
        found = Answer(where=f"POST {path}", body=self.must(path, body), is_chat=path == _CHAT)
        assert found.choices
        return found

    def smallest(self, **options: Any) -> httpx.Response:
        """Send the smallest valid request; returns the response, whatever its status."""
        if self.server.can("completions") or self.server.can("chat"):
            return self.post(self.path, self.body("hello", max_tokens=1, temperature=0), **options)
        return self.post("/v1/embeddings", {"model": self.model, "input": "hello"}, **options)

    def chat(self, messages: str | Sequence[Mapping[str, Any]], **parameters: Any) -> Json:
        """The JSON object of :meth:`talk`."""
        return self.must(_CHAT, {"model": self.model, "messages": said(messages), **parameters})

    def complete(self, prompt: str | Sequence[Any], **parameters: Any) -> Json:
        """The JSON object of :meth:`finish`."""
        return self.must(_COMPLETIONS, {"model": self.model, "prompt": prompt, **parameters})

    def tokens(self, messages: str | Sequence[Mapping[str, Any]], **parameters: Any) -> list[int]:
        """Token ids of a text, or of messages rendered by the chat template."""
        what = {"prompt": messages} if isinstance(messages, str) else {"messages": list(messages)}
        answer = self.must("/tokenize", {"model": self.model, **what, **parameters})
        return [int(token) for token in read(answer, "POST /tokenize", "tokens", of=list)]

    def text(self, tokens: Sequence[int]) -> str:
        """Text of token ids."""
        answer = self.must("/detokenize", {"model": self.model, "tokens": list(tokens)})
        return str(read(answer, "POST /detokenize", "prompt", of=str))

    def metrics(self) -> Samples:
        """The server's metrics (Prometheus text format)."""
        answer = self.get("/metrics")
        if answer.status_code != 200:
            raise Fault(f"GET /metrics: {shown(answer)}")
        return parse(answer.text)

    def get(self, path: str, **options: Any) -> httpx.Response:
        """GET; returns the response, whatever its status.

        Raises:
            Fault: There is none.
        """
        return self._answered("GET", path, **options)

    def sent(self, path: str, body: Any, **options: Any) -> httpx.Response:
        """POST a JSON body; returns the response, whatever its status.

        Raises:
            Fault: There is none.
        """
        return self._answered("POST", path, json=body, **options)

    def written(self, body: bytes | Iterable[bytes], *, kind: str = "application/json") -> httpx.Response:
        """POST a JSON body as it is to :attr:`path`, in one piece or in chunks; returns the response, whatever its status.

        Args:
            body: The body; pieces are sent as chunks (RFC 9112, section 7.1).
            kind: Its content type.

        Raises:
            Fault: There is none.
        """
        return self._answered("POST", self.path, content=body, headers={"content-type": kind})

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        """POST a JSON body; returns the response, whatever its status.

        Raises:
            httpx.HTTPError: There is none.
        """
        try:
            answer = self.http.post(path, json=body, **options)
        except httpx.HTTPError as error:
            self.exchanges.append(error.request)
            raise
        self.exchanges.append(answer)
        return answer

    def must(self, path: str, body: Any) -> Json:
        """POST a JSON body; returns the JSON object of the response, which must be 200.

        Raises:
            Fault: It is not.
        """
        answer = self.sent(path, body)
        if asks_to_wait(answer.status_code, answer.headers.get("retry-after")):
            raise RefusedAloneError(f"POST {path} is refused again and again, while others are served: {shown(answer)}")
        if answer.status_code != 200:
            raise Fault(f"POST {path}: {shown(answer)}")
        try:
            value = document(answer)
        except ValueError as error:
            raise Fault(f"POST {path}: the answer is no JSON ({error}): {shown(answer)}") from None
        found: Json = read(value, f"POST {path}", of=dict)
        return found

    def works(self) -> None:
        """Check that the server still works: a small valid request must succeed.

        Raises:
            Fault: It does not.
        """
        try:
            answer = self.smallest()
            answered = document(answer) if answer.status_code == 200 else None
        except httpx.HTTPError as error:
            raise Fault(f"a valid request afterwards {_unanswered(error)}") from error
        except ValueError:
            raise Fault(f"a valid request afterwards is answered with a body that is no JSON: {shown(answer)}") from None
        if not isinstance(answered, dict):
            raise Fault(f"a valid request afterwards is answered {shown(answer)}")
        counted = Answer(where="a valid request", body=answered, is_chat=self.is_chat).completion_tokens
        if counted is not None and counted > 1:
            raise Fault(f"a valid request for one token afterwards has {counted}")

    def _answered(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = self.http.request(method, path, **options)
        except httpx.HTTPError as error:
            self.exchanges.append(error.request)
            raise Fault(f"{method} {path} {_unanswered(error)}") from error
        self.exchanges.append(answer)
        return answer


def _unanswered(error: httpx.HTTPError) -> str:
    """What happened to a request without an answer."""
    if isinstance(error, httpx.ConnectError):
        return f"cannot be sent: the server does not accept connections ({error})"
    if isinstance(error, httpx.TimeoutException):
        limits = error.request.extensions.get("timeout") or {}
        return f"is not answered within {limits.get('read') or 0:.0f} s"
    return f"ends without an answer: {error or type(error).__name__}"


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

    No call begins before all threads are ready: of calls that take milliseconds, the first ones would otherwise be over when
    a busy machine starts the last ones.

    Raises:
        Exception: The exception of the first item whose call failed.
    """
    todo = list(items)
    ready = Barrier(max(len(todo), 1))

    def begin(item: _Item) -> _Result:
        ready.wait()
        return act(item)

    with ThreadPoolExecutor(max_workers=max(len(todo), 1)) as pool:
        try:
            results = pool.map(begin, todo)
        except BaseException:  # a thread that cannot be started: the others would wait for it
            ready.abort()
            raise
        return list(results)
