"""The ways to ask a server for something: each surface, and each switch that takes another path through a server."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
_JSON = "application/json"
_BORDER = "vllm-ci-border"
_HI = [{"role": "user", "content": "x"}]
_TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
_SCHEMA = {"type": "json_schema", "json_schema": {"name": "one", "schema": {"type": "object", "properties": {}}}}


@dataclass(frozen=True, kw_only=True)
class Way:
    """A small valid request.

    Attributes:
        name: Part of the name of a case and of a finding's id.
        path: Its path.
        shows: Fields, one of which a response with content has (:func:`vllm_ci.suites.security.evidence.served`).
        body: JSON fields beside the model; ``None`` for a GET.
        file: Sends the fields as a form with a short recording.
        model: Adds the model.
    """

    name: str
    path: str
    shows: tuple[str, ...]
    body: Mapping[str, Any] | None = None
    file: bool = False
    model: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """Its method."""
        return "GET" if self.body is None else "POST"

    @property
    def route(self) -> str:
        """Method and path."""
        return f"{self.method} {self.path}"

    def content(self, model: str) -> tuple[dict[str, str], bytes]:
        """Headers and body of the request for a model."""
        if self.body is None:
            return dict(self.headers), b""
        fields = {**({"model": model} if self.model else {}), **self.body}
        if self.file:
            return {"content-type": f"multipart/form-data; boundary={_BORDER}"}, _form(fields)
        return {"content-type": _JSON, **self.headers}, json.dumps(fields).encode()


def _variants(surface: str, path: str, shows: tuple[str, ...], base: Mapping[str, Any], **switches: Any) -> Iterator[Way]:
    yield Way(name=surface, path=path, shows=shows, body=base)
    for name, extra in switches.items():
        yield Way(name=f"{surface}-{name.replace('_', '-')}", path=path, shows=shows, body={**base, **extra})


_STREAMED = {"stream": True}

WAYS: tuple[Way, ...] = (
    Way(name="models", path="/v1/models", shows=("data",)),
    *_variants(
        *("chat", CHAT, ("choices",), {"messages": _HI, "max_tokens": 1}),
        stream=_STREAMED,
        stream_usage={**_STREAMED, "stream_options": {"include_usage": True}},
        choices={"n": 2, "temperature": 1},
        tools={"tools": [_TOOL]},
        named_tool={"tools": [_TOOL], "tool_choice": {"type": "function", "function": {"name": "look"}}, "max_tokens": 16},
        streamed_tools={**_STREAMED, "tools": [_TOOL]},
        json={"response_format": {"type": "json_object"}, "max_tokens": 4},
        schema={"response_format": _SCHEMA, "max_tokens": 4},
        logprobs={"logprobs": True, "top_logprobs": 1},
        stop={"stop": ["zq"]},
        user={"user": "x", "metadata": {"a": "b"}},
    ),
    *_variants(
        *("completions", COMPLETIONS, ("choices",), {"prompt": "x", "max_tokens": 1}),
        stream=_STREAMED,
        stream_usage={**_STREAMED, "stream_options": {"include_usage": True}},
        choices={"n": 2, "temperature": 1},
        echo={"echo": True},
        prompts={"prompt": ["x", "y"]},
        token_ids={"prompt": [5, 6]},
        streamed_prompts={**_STREAMED, "prompt": ["x", "y"]},
        logprobs={"logprobs": 1},
        suffix={"suffix": "y"},
    ),
    *_variants(
        *("embeddings", EMBEDDINGS, ("data",), {"input": "x"}),
        inputs={"input": ["x", "y"]},
        base64={"encoding_format": "base64"},
    ),
    *_variants(
        *("responses", "/v1/responses", ("output", "response"), {"input": "x", "max_output_tokens": 16, "store": False}),
        stream=_STREAMED,
    ),
    *_variants(
        *("messages", "/v1/messages", ("content", "message", "delta"), {"messages": _HI, "max_tokens": 1}), stream=_STREAMED
    ),
    Way(name="count-tokens", path="/v1/messages/count_tokens", shows=("input_tokens",), body={"messages": _HI}),
    Way(name="batch", path="/v1/chat/completions/batch", shows=("choices", "data"), body={"messages": [_HI], "max_tokens": 1}),
    Way(name="render", path="/v1/chat/completions/render", shows=("token_ids", "prompt_token_ids"), body={"messages": _HI}),
    Way(
        name="generate",
        path="/inference/v1/generate",
        shows=("choices",),
        body={"token_ids": [5], "sampling_params": {"max_tokens": 1}},
    ),
    Way(name="invocations", path="/invocations", shows=("choices",), body={"prompt": "x", "max_tokens": 1}),
    Way(name="invocations-chat", path="/invocations", shows=("choices",), body={"messages": _HI, "max_tokens": 1}),
    Way(
        name="generative-scoring",
        path="/generative_scoring",
        shows=("data",),
        body={"query": "x", "items": ["a"], "label_token_ids": [5, 6]},
    ),
    Way(name="tokenize", path="/tokenize", shows=("tokens",), body={"prompt": "x"}),
    Way(name="detokenize", path="/detokenize", shows=("prompt",), body={"tokens": [100]}),
    *(
        Way(name=name, path=path, shows=("data",), body={"text_1": "a", "text_2": "b"})
        for name, path in (("score", "/score"), ("v1-score", "/v1/score"))
    ),
    *(
        Way(name=name, path=path, shows=("results",), body={"query": "a", "documents": ["b", "c"]})
        for name, path in (("rerank", "/rerank"), ("v1-rerank", "/v1/rerank"), ("v2-rerank", "/v2/rerank"))
    ),
    Way(name="pooling", path="/pooling", shows=("data",), body={"input": "x"}),
    Way(name="classify", path="/classify", shows=("data",), body={"input": "x"}),
    Way(name="cohere-chat", path="/cohere/v2/chat", shows=("message",), body={"messages": _HI, "max_tokens": 1}),
    Way(name="moderations", path="/v1/moderations", shows=("results",), body={"input": "x"}),
    Way(name="transcriptions", path="/v1/audio/transcriptions", shows=("text",), body={"language": "en"}, file=True),
    Way(name="translations", path="/v1/audio/translations", shows=("text",), body={}, file=True),
    Way(name="is-scaling", path="/is_scaling_elastic_ep", shows=("is_scaling_elastic_ep",), body={}, model=False),
    Way(name="metrics", path="/metrics", shows=("#metrics",)),
    Way(name="version", path="/version", shows=("version",)),
    Way(name="load", path="/load", shows=("server_load",)),
    Way(name="openapi", path="/openapi.json", shows=("paths",)),
    Way(name="docs", path="/docs", shows=("#page",)),
    Way(name="redoc", path="/redoc", shows=("#page",)),
)
"""Streams, several choices, tools, structure and lists of prompts often have handlers of their own."""

_OF_PATHS = {
    "chat": (CHAT, "/v1/chat/completions/batch", "/v1/chat/completions/render", "/cohere/v2/chat"),
    "completions": (COMPLETIONS, "/invocations", "/inference/v1/generate"),
    "embeddings": (EMBEDDINGS, "/pooling", "/classify"),
    "responses": ("/v1/responses",),
    "messages": ("/v1/messages", "/v1/messages/count_tokens"),
    "scoring": ("/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank", "/generative_scoring", "/v1/moderations"),
    "audio": ("/v1/audio/transcriptions", "/v1/audio/translations"),
}
SURFACES: Mapping[str, tuple[Way, ...]] = {
    name: tuple(way for way in WAYS if way.path in paths) for name, paths in _OF_PATHS.items()
}
"""The ways of each surface that runs a model."""


def _form(fields: Mapping[str, Any]) -> bytes:
    """A form with the fields and a recording of a tenth of a second of silence."""
    frames = b"\0\0" * 1600
    wav = b"RIFF" + struct.pack("<I", 36 + len(frames)) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    parts = [
        f'--{_BORDER}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()
    ]
    head = f'--{_BORDER}\r\nContent-Disposition: form-data; name="file"; filename="x.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    sound = wav + b"data" + struct.pack("<I", len(frames)) + frames
    return "".join(parts).encode() + head.encode() + sound + f"\r\n--{_BORDER}--\r\n".encode()


def wrong_keys(key: str) -> dict[str, list[tuple[str, str]]]:
    """Headers that do not hold the key, by name; each was enough on some server."""
    half = key[: max(len(key) // 2, 1)]
    return {
        "another-key": [("Authorization", "Bearer not-the-key")],
        "empty-key": [("Authorization", "Bearer ")],
        "scheme-alone": [("Authorization", "Bearer")],
        "empty-header": [("Authorization", "")],
        "null-key": [("Authorization", "Bearer null")],
        "undefined-key": [("Authorization", "Bearer undefined")],
        "usual-key": [("Authorization", "Bearer EMPTY")],
        "beginning-of-the-key": [("Authorization", f"Bearer {key[:-1]}")],
        "half-of-the-key": [("Authorization", f"Bearer {half}")],
        "one-letter-of-the-key": [("Authorization", f"Bearer {key[:1]}")],
        "end-of-the-key": [("Authorization", f"Bearer {key[1:]}")],
        "more-than-the-key": [("Authorization", f"Bearer {key}x")],
        "upper-case-key": [("Authorization", f"Bearer {key.swapcase()}")],
        "two-wrong-headers": [("Authorization", "Bearer a"), ("Authorization", "Bearer b")],
        "empty-and-wrong-header": [("Authorization", ""), ("Authorization", "Bearer not-the-key")],
        "empty-basic": [("Authorization", f"Basic {base64.b64encode(b':').decode()}")],
        "pattern-key": [("Authorization", "Bearer *")],
        "another-header": [("X-Api-Key", "not-the-key"), ("Api-Key", "not-the-key")],
        "empty-other-header": [("X-Api-Key", "")],
        "forwarded-from-localhost": [
            ("X-Forwarded-For", "127.0.0.1"),
            ("X-Real-IP", "127.0.0.1"),
            ("Forwarded", "for=127.0.0.1"),
        ],
        "forwarded-by-a-name": [("X-Forwarded-User", "admin"), ("Remote-User", "admin"), ("X-Remote-User", "admin")],
        "forwarded-for-another-host": [("X-Forwarded-Host", "localhost"), ("X-Forwarded-Proto", "https")],
        "rewritten-url": [("X-Original-URL", "/health"), ("X-Rewrite-URL", "/health"), ("X-Forwarded-Prefix", "/health")],
        "overridden-method": [("X-HTTP-Method-Override", "OPTIONS"), ("X-Method-Override", "OPTIONS")],
        "preflight": [("Origin", "https://attacker.example"), ("Access-Control-Request-Method", "GET")],
        "internal-client": [("User-Agent", "kube-probe/1.30"), ("X-Internal", "true")],
    }


def wrong_places(key: str) -> dict[str, list[tuple[str, str]]]:
    """Headers with the right key in a scheme or a place that nobody documents for it."""
    basic = base64.b64encode(key.encode()).decode()
    return {
        "without-a-scheme": [("Authorization", key)],
        "basic-scheme": [("Authorization", f"Basic {basic}")],
        "token-scheme": [("Authorization", f"Token {key}")],
        "a-cookie": [("Cookie", f"authorization=Bearer {key}; api_key={key}")],
    }
