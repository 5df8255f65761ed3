"""Hostile requests, by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_CHAT = "/v1/chat/completions"
_COMPLETIONS = "/v1/completions"
_FOREVER = "{% for i in range(1000000000) %}{% endfor %}"


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A request that must be refused, or answered within limits.

    Attributes:
        name: Part of the finding's id.
        path: Path of the request.
        make: Returns the body for a model name; called late, because some bodies are large.
        refused: A success is a finding too, because the request must be refused.
    """

    name: str
    path: str
    make: Callable[[str], bytes]
    refused: bool = False


def _chat(name: str, *, refused: bool = False, **fields: Any) -> Attack:
    def make(model: str) -> bytes:
        made = {key: value() if callable(value) else value for key, value in fields.items()}
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, **made}
        return json.dumps(body).encode()

    return Attack(name=name, path=_CHAT, make=make, refused=refused)


def _completion(name: str, *, refused: bool = False, **fields: Any) -> Attack:
    def make(model: str) -> bytes:
        made = {key: value() if callable(value) else value for key, value in fields.items()}
        return json.dumps({"model": model, "prompt": "hi", "max_tokens": 4, **made}).encode()

    return Attack(name=name, path=_COMPLETIONS, make=make, refused=refused)


def _schema(name: str, schema: Any, *, refused: bool = False) -> Attack:
    def wanted() -> dict[str, Any]:
        made = schema() if callable(schema) else schema
        return {"type": "json_schema", "json_schema": {"name": "x", "schema": made}}

    return _chat(name, refused=refused, response_format=wanted)


def _text(name: str, template: str, *, refused: bool = True) -> Attack:
    """A body that a JSON library cannot write."""
    return Attack(name=name, path=_CHAT, make=lambda model: template.replace("MODEL", model).encode(), refused=refused)


def _nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "boolean"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


_HEAD = '{"model": "MODEL", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, '
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}

ATTACKS: tuple[Attack, ...] = (
    # Too much work for one request.
    _chat("huge-n", n=1_000_000, temperature=1, refused=True),
    _chat("huge-max-tokens", max_tokens=10**30, refused=True),
    _chat("huge-beam", use_beam_search=True, n=1000, max_tokens=8),
    _completion("many-prompts", prompt=lambda: ["x"] * 20_000, max_tokens=1, refused=True),
    _completion("all-prompt-logprobs", prompt=lambda: "hello " * 200, prompt_logprobs=-1),
    _chat("many-stop-strings", stop=lambda: [f"s{n}" for n in range(100_000)], refused=True),
    _chat("many-bad-words", bad_words=lambda: [f"w{n}" for n in range(100_000)]),
    _chat("large-logit-bias", logit_bias=lambda: {str(n): 1 for n in range(1_000_000)}, refused=True),
    _chat("many-tools", tools=lambda: [_TOOL] * 20_000),
    _chat("many-messages", messages=lambda: [{"role": "user", "content": "x"}] * 100_000),
    _chat("large-message", messages=lambda: [{"role": "user", "content": "hello " * 2_000_000}]),
    # Structures that are expensive to parse.
    _text("deep-json", '{"model": "MODEL", "messages": ' + "[" * 100_000 + "]" * 100_000 + "}"),
    _text("deep-unknown-field", _HEAD + '"x": ' + '{"a":' * 20_000 + "1" + "}" * 20_000 + "}", refused=False),
    _schema("deep-schema", lambda: _nested(400)),
    _schema("wide-schema", lambda: {"enum": [f"v{n}" for n in range(20_000)]}),
    _schema("schema-of-itself", {"$ref": "#"}),
    _schema("schema-of-many-items", {"type": "array", "items": {"type": "integer"}, "minItems": 1_000_000}),
    _schema("schema-from-elsewhere", {"$ref": "http://127.0.0.1:9/schema.json"}),
    _chat("nested-repetition", structured_outputs={"regex": "((((a?){50}){50}){50}){50}"}),
    _chat("large-repetition", structured_outputs={"regex": "(a|b){1,1000000}"}),
    _chat("catastrophic-pattern", structured_outputs={"regex": "(a+)+b"}),
    _chat("grammar-of-itself", structured_outputs={"grammar": "root ::= root root"}),
    # Input that may be executed.
    _chat("request-template", chat_template=_FOREVER, refused=True),
    _chat("template-in-arguments", chat_template_kwargs={"chat_template": _FOREVER}),
    _chat("logits-processor-by-name", logits_processors=["os.system"]),
    _completion("embeddings-as-prompt", prompt=None, prompt_embeds="gASVCgAAAAAAAACMBm9zLmVudpQu", refused=True),
    _completion(
        "cache-from-elsewhere",
        kv_transfer_params={"do_remote_prefill": True, "remote_host": "127.0.0.1", "remote_port": 9, "remote_block_ids": [1]},
    ),
    # Invalid numbers.
    _text("not-a-number", _HEAD + '"temperature": NaN}'),
    _text("infinite", _HEAD + '"temperature": 1e999}'),
    _text("nan-penalty", _HEAD + '"repetition_penalty": NaN}'),
    _text("nan-bias", _HEAD + '"logit_bias": {"5": NaN}}', refused=False),
    _text("five-thousand-digits", _HEAD + '"seed": ' + "9" * 5000 + "}"),
    _chat("huge-seed", seed=10**30, refused=True),
    _chat("huge-stop-token", stop_token_ids=[10**30], refused=True),
    _chat("negative-stop-token", stop_token_ids=[-5]),
    _chat("negative-top-k", top_k=-5, refused=True),
    _chat("negative-allowed-token", allowed_token_ids=[-1], refused=True),
    _completion("negative-token", prompt=[-1], refused=True),
    _completion("negative-truncation", truncate_prompt_tokens=-5, refused=True),
    # Invalid text.
    _text("lone-surrogate-message", '{"model": "MODEL", "messages": [{"role": "user", "content": "\\ud800"}]}', refused=False),
    _text("lone-surrogate-model", '{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}'),
    _text("lone-surrogate-stop", _HEAD + '"stop": "\\ud800"}', refused=False),
    _chat("nul-message", messages=[{"role": "user", "content": "\0\0\0"}]),
    _chat("empty-stop", stop=[""]),
    _chat("empty-salt", cache_salt=""),
    _chat("long-request-id", request_id=lambda: "x" * 100_000),
)
