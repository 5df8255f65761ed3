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
        rule: What says that it has to be refused, and where it is written; empty if it may be served within limits. A
            success is a finding for vLLM only, which documents these checks; other servers may ignore what they do not know.
        large: It is valid and asks for much work, so it may take its time while others are served.
    """

    name: str
    make: Callable[[str, bool], bytes]
    surface: str = ""
    first: str = "chat"
    rule: str = ""
    large: bool = False

    def on(self, *, chat: bool, completions: bool) -> str:
        """The surface to use on a server that has these; empty if it makes no sense there."""
        offered = [name for name, has in (("chat", chat), ("completions", completions)) if has and self.surface in ("", name)]
        return self.first if self.first in offered else next(iter(offered), "")


def _request(
    name: str,
    *,
    rule: str = "",
    large: bool = False,
    first: str = "chat",
    said: Callable[[], str] = lambda: "hi",
    **fields: Any,
) -> Attack:
    """An attack by JSON fields, with a prompt on the surface that the server has."""
    surface = "chat" if set(fields) & set(_OF_CHAT) else "completions" if set(fields) & set(_OF_COMPLETIONS) else ""

    def make(model: str, chat: bool) -> bytes:
        made = {key: value() if callable(value) else value for key, value in fields.items()}
        asks: dict[str, Any] = {"messages": [{"role": "user", "content": said()}]} if chat else {"prompt": said()}
        return json.dumps({"model": model, **asks, "max_tokens": 4, **made}).encode()

    return Attack(name=name, make=make, surface=surface, first=first, rule=rule, large=large)


def _schema(name: str, schema: Any) -> Attack:
    def wanted() -> dict[str, Any]:
        made = schema() if callable(schema) else schema
        return {"type": "json_schema", "json_schema": {"name": "x", "schema": made}}

    return _request(name, response_format=wanted)


def _text(name: str, template: str, *, rule: str = "", said: str = "hi") -> Attack:
    """A body that a JSON library cannot write; ``SAID`` stands for a field with the prompt, ``ASKS`` for its name."""

    def make(model: str, chat: bool) -> bytes:
        whole = f'"messages": [{{"role": "user", "content": "{said}"}}]' if chat else f'"prompt": "{said}"'
        asks = '"messages": ' if chat else '"prompt": '
        name_of = json.dumps(model)[1:-1]
        return template.replace("SAID", whole).replace("ASKS", asks).replace("MODEL", name_of).encode()

    return Attack(name=name, make=make, rule=rule)


def _nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "boolean"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


_JSON = "RFC 8259, section 6: JSON has no NaN and no Infinity"
_TYPE = "OpenAI API reference: the field has another type"
_RANGE = "OpenAI API reference: the value is outside of the range of this field"
_TOKENS = "vLLM, sampling parameters: ids of tokens are in the vocabulary"
# Of vLLM only: OpenAI documents no least max_tokens for a chat, and other engines take 0 or less for "without a limit".
_SAMPLING = "vLLM, sampling parameters: the value is outside of the range of this field"
_TEMPLATES = "vLLM, --trust-request-chat-template is off: templates in requests are refused"
_EMBEDDINGS = "vLLM, --enable-prompt-embeds is off: prompts as embeddings are refused"
_MODEL = "OpenAI API, error codes, NotFoundError: a resource that does not exist is refused"

_HEAD = '{"model": "MODEL", SAID, "max_tokens": 1, '
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}

ATTACKS: tuple[Attack, ...] = (
    # Too much work for one request.
    _request("huge-n", large=True, n=1_000_000, temperature=1),
    _request("huge-max-tokens", large=True, max_tokens=10**30),
    _request("huge-beam", large=True, use_beam_search=True, n=1000, max_tokens=8),
    _request("many-prompts", large=True, prompt=lambda: ["x"] * 20_000, max_tokens=1),
    _request("all-prompt-logprobs", large=True, first="completions", said=lambda: "hello " * 200, prompt_logprobs=-1),
    _request("many-stop-strings", large=True, stop=lambda: [f"s{n}" for n in range(100_000)]),
    _request("many-bad-words", large=True, bad_words=lambda: [f"w{n}" for n in range(200_000)]),
    _request("large-logit-bias", large=True, logit_bias=lambda: {str(n): 1 for n in range(1_000_000)}, rule=_TOKENS),
    _request("many-tools", large=True, tools=lambda: [_TOOL] * 20_000),
    _request("many-messages", large=True, messages=lambda: [{"role": "user", "content": "x"}] * 100_000),
    _request("large-message", large=True, said=lambda: "hello " * 2_000_000),
    # Structures that are expensive to parse.
    _text("deep-json", '{"model": "MODEL", ASKS' + "[" * 100_000 + "]" * 100_000 + "}", rule=_TYPE),
    _text("deep-unknown-field", _HEAD + '"x": ' + '{"a":' * 20_000 + "1" + "}" * 20_000 + "}"),
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
    _request("request-template", chat_template=_FOREVER, rule=_TEMPLATES),
    _request("template-in-arguments", chat_template_kwargs={"chat_template": _FOREVER}),
    _request("logits-processor-by-name", logits_processors=["os.system"]),
    _request("embeddings-as-prompt", prompt=None, prompt_embeds="gASVCgAAAAAAAACMBm9zLmVudpQu", rule=_EMBEDDINGS),
    _request(
        "cache-from-elsewhere",
        first="completions",
        kv_transfer_params={"do_remote_prefill": True, "remote_host": "127.0.0.1", "remote_port": 9, "remote_block_ids": [1]},
    ),
    # Invalid numbers.
    _text("not-a-number", _HEAD + '"temperature": NaN}', rule=_JSON),
    _text("infinite", _HEAD + '"temperature": 1e999}', rule=_RANGE),
    _text("nan-penalty", _HEAD + '"repetition_penalty": NaN}', rule=_JSON),
    _text("nan-bias", _HEAD + '"logit_bias": {"5": NaN}}'),
    _text("five-thousand-digits", _HEAD + '"seed": ' + "9" * 5000 + "}", rule=_RANGE),
    _request("huge-seed", seed=10**30, rule=_RANGE),
    _request("huge-stop-token", stop_token_ids=[10**30], rule=_TOKENS),
    _request("negative-stop-token", stop_token_ids=[-5]),
    _request("negative-top-k", top_k=-5, rule=_SAMPLING),
    _request("negative-allowed-token", allowed_token_ids=[-1], rule=_TOKENS),
    _request("negative-token", prompt=[-1], rule=_TOKENS),
    _request("negative-truncation", first="completions", truncate_prompt_tokens=-5, rule=_SAMPLING),
    # Invalid text.
    _text("lone-surrogate-message", '{"model": "MODEL", "max_tokens": 1, SAID}', said="\\ud800"),
    _text("lone-surrogate-model", '{"model": "\\ud800", SAID}', rule=_MODEL),
    _text("lone-surrogate-stop", _HEAD + '"stop": "\\ud800"}'),
    _request("nul-message", said=lambda: "\0\0\0"),
    _request("empty-stop", stop=[""]),
    _request("empty-salt", cache_salt=""),
    _request("huge-top-logprobs", logprobs=True, top_logprobs=10**9, rule=_RANGE),
    _request("negative-max-tokens", max_tokens=-1, rule=_SAMPLING),
    _request("fractional-max-tokens", max_tokens=0.5, rule=_TYPE),
    _request("wrong-message-type", messages={"role": "user"}, rule=_TYPE),
    _request("huge-stream-options", stream=True, stream_options={"include_usage": "x" * 100_000}),
    _request("prototype", __proto__={"admin": True}, __class__="x"),
    _request("long-name", messages=lambda: [{"role": "user", "name": "n" * 1_000_000, "content": "x"}]),
    _request("long-user", user=lambda: "u" * 1_000_000),
    _request("format-string", user="%s%n%x{0.__class__}${jndi:ldap://127.0.0.1:9/x}"),
    _request("long-request-id", request_id=lambda: "x" * 100_000),
)
