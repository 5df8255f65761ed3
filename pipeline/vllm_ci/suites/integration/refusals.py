"""Invalid requests, and what a refusal has to look like.

vLLM documents its checks, so it has to refuse all of them. Other servers may be more tolerant with values, but not with the
structure of a request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import httpx

from vllm_ci.suites.client import ApiClient, Json, shown, user
from vllm_ci.suites.findings import INVALID_REQUESTS, Finding
from vllm_ci.suites.verdicts import Fault

Judge = Callable[[Iterable[Finding]], None]
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
REFUSALS = (400, 413, 422)
NO_MODEL = (400, 403, 404, 422)
"""A model may be unknown (404), not allowed (403), or an invalid value."""
PAGES = (403, 404, 405, 413)
"""Statuses that gateways answer themselves, often with an HTML page."""


class ErrorBodyError(Fault):
    """A refusal does not say what is wrong."""

    cause: ClassVar[Mapping[str, str]] = {
        "id": "error-body",
        "title": "a refusal does not say what is wrong in a format that clients read",
        "rule": "OpenAI API reference, error codes: an error has a message",
    }


CRASH: Mapping[str, str] = {
    "id": "server-error:validation",
    "title": "invalid requests are answered with a server error instead of 4xx",
    "rule": "RFC 9110, 15.5: a mistake of the client is answered 4xx; OpenAI API reference, error codes: 400",
    "severity": "medium",
}
"""The cause of all cases whose invalid request is answered with a server error: one handler of the server is missing."""


@dataclass(frozen=True, kw_only=True)
class Bad:
    """An invalid request.

    Attributes:
        name: Short and stable.
        path: Chat or completions.
        fields: Fields that replace those of a valid request; ``None`` removes one.
        statuses: Statuses of a refusal.
        tolerated: Servers other than vLLM may take the value; all servers may if it is not documented as invalid.
        needs: Further capabilities.
        endless: Some servers document that the value means an answer without an end, so only vLLM gets it.
    """

    name: str
    path: str
    fields: Mapping[str, Any]
    statuses: tuple[int, ...] = REFUSALS
    tolerated: str = "no"
    needs: tuple[str, ...] = field(default=())
    endless: bool = False

    def body(self, client: ApiClient) -> Json:
        """The request."""
        what: Json = {"messages": [user("hello")]} if self.path == CHAT else {"prompt": "hello"}
        every: Json = {"model": client.model, "max_tokens": 2, **what, **self.fields}
        return {name: value for name, value in every.items() if value is not None}

    def may_pass(self, *, is_vllm: bool) -> bool:
        """Whether a server may answer it."""
        return self.tolerated == "by all" or (self.tolerated == "by others" and not is_vllm)


def _chat(name: str, fields: Json, **options: Any) -> Bad:
    return Bad(name=name, path=CHAT, fields=fields, **options)


def _text(name: str, fields: Json, **options: Any) -> Bad:
    return Bad(name=name, path=COMPLETIONS, fields=fields, **options)


def _value(name: str, fields: Json, path: str = CHAT, **options: Any) -> Bad:
    return Bad(name=name, path=path, fields=fields, tolerated="by others", **options)


BAD = (
    _value("unknown-model", {"model": "no-such-model"}, statuses=NO_MODEL),
    _value("unknown-model-completions", {"model": "no-such-model"}, COMPLETIONS, statuses=NO_MODEL),
    _chat("no-messages", {"messages": None}),
    _value("empty-messages", {"messages": []}),
    _chat("messages-as-text", {"messages": "hello"}),
    _chat("message-without-role", {"messages": [{"content": "hello"}]}, tolerated="by others"),
    _chat("content-as-number", {"messages": [{"role": "user", "content": 5}]}, tolerated="by others"),
    _text("empty-prompt", {"prompt": ""}, tolerated="by all"),
    _text("prompt-as-object", {"prompt": {"text": "hello"}}),
    _value("token-out-of-vocabulary", {"prompt": [2_000_000_000]}, COMPLETIONS, needs=("token_prompts",)),
    _value("temperature-negative", {"temperature": -1}),
    _value("temperature-as-text", {"temperature": "hot"}),
    _value("top-p-zero", {"top_p": 0}),
    _value("top-p-over-one", {"top_p": 1.5}),
    _value("max-tokens-zero", {"max_tokens": 0}, endless=True),
    _value("max-tokens-negative", {"max_tokens": -1}, COMPLETIONS, endless=True),
    _value("max-tokens-as-text", {"max_tokens": "many"}),
    _value("n-zero", {"n": 0}),
    _value("frequency-penalty-out-of-range", {"frequency_penalty": 5}),
    _value("presence-penalty-out-of-range", {"presence_penalty": -5}),
    _value("stop-as-number", {"stop": 5}),
    _value("seed-as-text", {"seed": "x"}),
    _value("too-many-logprobs", {"logprobs": True, "top_logprobs": 1_000_000}),
    _value("top-logprobs-without-logprobs", {"top_logprobs": 2}),
    _value("stream-options-without-stream", {"stream_options": {"include_usage": True}}),
    _value("tool-choice-without-tools", {"tool_choice": "required"}),
    _value("logit-bias-out-of-vocabulary", {"logit_bias": {"2000000000": 1}}),
    _chat("unknown-role", {"messages": [{"role": "nobody", "content": "hello"}]}, tolerated="by all"),
)
BAD_BODIES: dict[str, tuple[bytes, ...]] = {
    "not-json": (b"{not json",),
    "cut-off": (b'{"model": "x", "messages": [{"role": "us',),
    "empty": (b"",),
    "is-no-object": (b"[]", b"null", b"42", b'"text"'),
    "bad-utf8": (b'{"model": "\xff\xfe"}',),
}


def message(answer: httpx.Response) -> str:
    """The message of a refusal, in any shape that servers use: ``error`` (object or text), ``detail``, ``message``.

    Raises:
        ErrorBodyError: There is none.
    """
    try:
        body = answer.json()
    except ValueError:
        raise ErrorBodyError(f"the refusal is no JSON: {shown(answer)}") from None
    for name in ("error", "detail", "message", "errors"):
        found = body.get(name) if isinstance(body, dict) else None
        if isinstance(found, dict):
            found = found.get("message") or found.get("detail")
        if found and (not isinstance(found, str) or found.strip()):
            return str(found)
    raise ErrorBodyError(f"the refusal has no message: {shown(answer)}")


def is_page(answer: httpx.Response) -> bool:
    """Whether a gateway may have written the body itself: a page or nothing, on a status of its own."""
    is_json = "json" in answer.headers.get("content-type", "")
    return answer.status_code in PAGES and not is_json


def error_inside(answer: httpx.Response) -> str:
    """The error that an answer with status 200 holds instead of choices; empty if it holds none."""
    try:
        body = answer.json()
    except ValueError:
        return "a body that is no JSON"
    if isinstance(body, dict) and body.get("choices"):
        return ""
    return str(body)[:200]


def crash(name: str, answer: httpx.Response) -> Finding:
    """The finding that an invalid request is answered with a server error."""
    return Finding(
        id=f"server-error:{name}",
        severity="medium",
        message=f"an invalid request is answered {answer.status_code} instead of 4xx: {shown(answer)}",
        cause=INVALID_REQUESTS,
    )
