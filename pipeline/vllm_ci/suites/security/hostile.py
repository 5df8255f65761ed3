"""Hostile requests, by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_FOREVER = "{% for i in range(1000000000) %}{% endfor %}"
_OF_CHAT = ("messages", "tools", "chat_template", "chat_template_kwargs")
_OF_COMPLETIONS = ("prompt", "prompt_embeds")


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A request that must be refused, or answered within limits.

    Attributes:
        name: Part of the finding's id.
        make: Returns the body for a model name, for chat or for completions; called late, because some bodies are large.
        surface: ``chat`` or ``completions`` if it makes sense there only.
        first: The surface that is used if the server has both.
        refused: vLLM documents that it refuses this, so a success is a finding there; other servers may ignore what they do
            not know, or serve it within limits.
    """

    name: str
    make: Callable[[str, bool], bytes]
    surface: str = ""
    first: str = "chat"
    refused: bool = False

    def on(self, *, chat: bool, completions: bool) -> str:
        """The surface to use on a server that has these; empty if it makes no sense there."""
        offered = [name for name, has in (("chat", chat), ("completions", completions)) if has and self.surface in ("", name)]
        return self.first if self.first in offered else next(iter(offered), "")


def _request(
    name: str, *, refused: bool = False, first: str = "chat", said: Callable[[], str] = lambda: "hi", **fields: Any
) -> Attack:
    """An attack by JSON fields, with a prompt on the surface that the server has."""
    surface = "chat" if set(fields) & set(_OF_CHAT) else "completions" if set(fields) & set(_OF_COMPLETIONS) else ""

    def make(model: str, chat: bool) -> bytes:
        made = {key: value() if callable(value) else value for key, value in fields.items()}
        asks: dict[str, Any] = {"messages": [{"role": "user", "content": said()}]} if chat else {"prompt": said()}
        return json.dumps({"model": model, **asks, "max_tokens": 4, **made}).encode()

    return Attack(name=name, make=make, surface=surface, first=first, refused=refused)


def _schema(name: str, schema: Any, *, refused: bool = False) -> Attack:
    def wanted() -> dict[str, Any]:
        made = schema() if callable(schema) else schema
        return {"type": "json_schema", "json_schema": {"name": "x", "schema": made}}

    return _request(name, refused=refused, response_format=wanted)


def _text(name: str, template: str, *, refused: bool = True, said: str = "hi") -> Attack:
    """A body that a JSON library cannot write; ``SAID`` stands for a field with the prompt, ``ASKS`` for its name."""

    def make(model: str, chat: bool) -> bytes:
        whole = f'"messages": [{{"role": "user", "content": "{said}"}}]' if chat else f'"prompt": "{said}"'
        asks = '"messages": ' if chat else '"prompt": '
        name_of = json.dumps(model)[1:-1]
        return template.replace("SAID", whole).replace("ASKS", asks).replace("MODEL", name_of).encode()

    return Attack(name=name, make=make, refused=refused)


def _nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "boolean"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


_HEAD = '{"model": "MODEL", SAID, "max_tokens": 1, '
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}

ATTACKS: tuple[Attack, ...] = (
    # Too much work for one request.
    _request("huge-n", n=1_000_000, temperature=1),
    _request("huge-max-tokens", max_tokens=10**30),
    _request("huge-beam", use_beam_search=True, n=1000, max_tokens=8),
    _request("many-prompts", prompt=lambda: ["x"] * 20_000, max_tokens=1, refused=True),
    _request("all-prompt-logprobs", first="completions", said=lambda: "hello " * 200, prompt_logprobs=-1),
    _request("many-stop-strings", stop=lambda: [f"s{n}" for n in range(100_000)], refused=True),
    _request("many-bad-words", bad_words=lambda: [f"w{n}" for n in range(200_000)]),
    _request("large-logit-bias", logit_bias=lambda: {str(n): 1 for n in range(1_000_000)}, refused=True),
    _request("many-tools", tools=lambda: [_TOOL] * 20_000),
    _request("many-messages", messages=lambda: [{"role": "user", "content": "x"}] * 100_000),
    _request("large-message", said=lambda: "hello " * 2_000_000),
    # Structures that are expensive to parse.
    _text("deep-json", '{"model": "MODEL", ASKS' + "[" * 100_000 + "]" * 100_000 + "}"),
    _text("deep-unknown-field", _HEAD + '"x": ' + '{"a":' * 20_000 + "1" + "}" * 20_000 + "}", refused=False),
    _schema("deep-schema", lambda: _nested(400)),
    _schema("wide-schema", lambda: {"enum": [f"v{n}" for n in range(20_000)]}),
    _schema("schema-of-itself", {"$ref": "#"}),
    _schema("schema-of-many-items", {"type": "array", "items": {"type": "integer"}, "minItems": 1_000_000}),
    _schema("schema-from-elsewhere", {"$ref": "http://127.0.0.1:9/schema.json"}),
    _request("nested-repetition", structured_outputs={"regex": "((((a?){50}){50}){50}){50}"}),
    _request("large-repetition", structured_outputs={"regex": "(a|b){1,1000000}"}),
    _request("catastrophic-pattern", structured_outputs={"regex": "(a+)+b"}),
    _request("grammar-of-itself", structured_outputs={"grammar": "root ::= root root"}),
    # Input that may be executed.
    _request("request-template", chat_template=_FOREVER, refused=True),
    _request("template-in-arguments", chat_template_kwargs={"chat_template": _FOREVER}),
    _request("logits-processor-by-name", logits_processors=["os.system"]),
    _request("embeddings-as-prompt", prompt=None, prompt_embeds="gASVCgAAAAAAAACMBm9zLmVudpQu", refused=True),
    _request(
        "cache-from-elsewhere",
        first="completions",
        kv_transfer_params={"do_remote_prefill": True, "remote_host": "127.0.0.1", "remote_port": 9, "remote_block_ids": [1]},
    ),
    # Invalid numbers.
    _text("not-a-number", _HEAD + '"temperature": NaN}'),
    _text("infinite", _HEAD + '"temperature": 1e999}'),
    _text("nan-penalty", _HEAD + '"repetition_penalty": NaN}'),
    _text("nan-bias", _HEAD + '"logit_bias": {"5": NaN}}', refused=False),
    _text("five-thousand-digits", _HEAD + '"seed": ' + "9" * 5000 + "}"),
    _request("huge-seed", seed=10**30, refused=True),
    _request("huge-stop-token", stop_token_ids=[10**30], refused=True),
    _request("negative-stop-token", stop_token_ids=[-5]),
    _request("negative-top-k", top_k=-5, refused=True),
    _request("negative-allowed-token", allowed_token_ids=[-1], refused=True),
    _request("negative-token", prompt=[-1], refused=True),
    _request("negative-truncation", first="completions", truncate_prompt_tokens=-5, refused=True),
    # Invalid text.
    _text("lone-surrogate-message", '{"model": "MODEL", "max_tokens": 1, SAID}', refused=False, said="\\ud800"),
    _text("lone-surrogate-model", '{"model": "\\ud800", SAID}'),
    _text("lone-surrogate-stop", _HEAD + '"stop": "\\ud800"}', refused=False),
    _request("nul-message", said=lambda: "\0\0\0"),
    _request("empty-stop", stop=[""]),
    _request("empty-salt", cache_salt=""),
    _request("huge-top-logprobs", logprobs=True, top_logprobs=10**9, refused=True),
    _request("negative-max-tokens", max_tokens=-1, refused=True),
    _request("fractional-max-tokens", max_tokens=0.5, refused=True),
    _request("wrong-message-type", messages={"role": "user"}, refused=True),
    _request("huge-stream-options", stream=True, stream_options={"include_usage": "x" * 100_000}),
    _request("prototype", __proto__={"admin": True}, __class__="x"),
    _request("long-name", messages=lambda: [{"role": "user", "name": "n" * 1_000_000, "content": "x"}]),
    _request("long-user", user=lambda: "u" * 1_000_000),
    _request("format-string", user="%s%n%x{0.__class__}${jndi:ldap://127.0.0.1:9/x}"),
    _request("long-request-id", request_id=lambda: "x" * 100_000),
)
