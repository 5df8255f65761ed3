"""What a request asks for, checked as vLLM 0.32 checks it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from doubles import structure, tokenizer
from doubles.refusal import RefusedError
from doubles.toymodel import Sampling

MAX_LENGTH = 2048
_MAX_N = 128
_MAX_STOPS = 64
_MAX_PROMPTS = 1024
_MAX_LOGPROBS = 20
_ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request for completions.

    Attributes:
        chat: It is a chat.
        model: As the client named it.
        prompts: Token ids of each prompt.
        texts: Each prompt as text, for echo.
        max_tokens: Most tokens of an answer.
        min_tokens: Tokens before which no stop token is drawn.
        n: Choices for each prompt.
        sampling: How to draw.
        stops: Strings that end an answer.
        stop_ids: Tokens that end an answer.
        bad_words: Sequences of tokens that do not come.
        prompt_logprobs: Candidates shown for each token of the prompt; ``None`` shows nothing.
        ignore_eos: The end-of-text token does not end it.
        keep_stop: The stop string stays in the answer.
        echo: The prompt comes back before the answer.
        logprobs: Number of candidates shown for each token; ``None`` shows nothing.
        token_ids: Token ids come with the answer.
        stream: Events instead of one answer.
        include_usage: A last chunk with the usage.
        continuous_usage: Usage in every chunk.
        forced: Text that structure or tools dictate; empty without.
        call: The forced text is a call of this function.
    """

    chat: bool
    model: str
    prompts: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    max_tokens: int
    min_tokens: int = 0
    n: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    stops: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    bad_words: tuple[tuple[int, ...], ...] = ()
    prompt_logprobs: int | None = None
    ignore_eos: bool = False
    keep_stop: bool = False
    echo: bool = False
    logprobs: int | None = None
    token_ids: bool = False
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    forced: str = ""
    call: str = ""


def parse(text: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        RefusedError: It is none.
    """

    def no_number(name: str) -> float:
        raise RefusedError(f"{name} is not a number of JSON")

    try:
        body = json.loads(text, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"1 validation error:\n  JSON decode error: {str(error)[:100]}", kind="Bad Request") from error
    if not isinstance(body, dict):
        raise RefusedError("1 validation error:\n  the body should be an object", kind="Bad Request", param="body")
    return body


def number(body: dict[str, Any], name: str, default: float | None, fits: Callable[[float], bool], wanted: str) -> Any:
    """A number of a body, within its range."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RefusedError(f"{name} should be a number, got {str(value)[:40]!r}", param=name)
    if not math.isfinite(value) or not fits(value):
        raise RefusedError(f"{name} must be {wanted}, got {str(value)[:40]}. (parameter={name})", param=name)
    return value


def whole(body: dict[str, Any], name: str, default: int | None, least: int, most: int) -> Any:
    """A whole number of a body, within its range."""
    value = number(body, name, default, lambda given: least <= given <= most, f"in [{least}, {most}]")
    if value is not None and not isinstance(value, int):
        raise RefusedError(f"{name} should be a whole number", param=name)
    return value


def strings(body: dict[str, Any], name: str, most: int) -> tuple[str, ...]:
    """A text or a list of texts."""
    value = body.get(name)
    if value is None:
        return ()
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise RefusedError(f"{name} should be a string or a list of strings", param=name)
    if len(found) > most or "" in found:
        raise RefusedError(f"{name} cannot contain an empty string or more than {most} strings", param=name)
    for each in found:
        readable(each, name)
    return tuple(found)


def tokens(body: dict[str, Any], name: str) -> frozenset[int]:
    """A list of token ids."""
    value = body.get(name) or []
    if not isinstance(value, list) or not all(isinstance(each, int) and 0 <= each < tokenizer.VOCABULARY for each in value):
        raise RefusedError(f"token_id(s) in {name} contain out-of-vocab token ids", param=name)
    return frozenset(value)


def readable(text: str, name: str) -> list[int]:
    """Token ids of a text that can be encoded."""
    try:
        return tokenizer.encode(text)
    except UnicodeEncodeError as error:
        raise RefusedError(f"{name} holds half a surrogate pair", param=name) from error


def sampling(body: dict[str, Any]) -> Sampling:
    """The sampling parameters of a body."""
    bias = body.get("logit_bias") or {}
    if not isinstance(bias, dict) or len(bias) > tokenizer.VOCABULARY:
        raise RefusedError("logit_bias is too large", param="logit_bias")
    weights = {}
    for token, value in bias.items():
        if not token.isdigit() or len(token) > 9 or int(token) >= tokenizer.VOCABULARY or isinstance(value, str):
            raise RefusedError("token_id(s) in logit_bias contain out-of-vocab token ids", param="logit_bias")
        weights[int(token)] = float(value)
    frequency, presence = (
        number(body, penalty, 0, lambda given: -2 <= given <= 2, "in [-2, 2]")
        for penalty in ("frequency_penalty", "presence_penalty")
    )
    return Sampling(
        frequency=frequency,
        presence=presence,
        repetition=number(body, "repetition_penalty", 1, lambda given: given > 0, "greater than zero"),
        allowed=tokens(body, "allowed_token_ids") or None,
        temperature=number(body, "temperature", 1.0, lambda given: 0 <= given <= 2, "in [0, 2]"),
        top_p=number(body, "top_p", 1.0, lambda given: 0 < given <= 1, "in (0, 1]"),
        min_p=number(body, "min_p", 0.0, lambda given: 0 <= given <= 1, "in [0, 1]"),
        top_k=whole(body, "top_k", 0, 0, 10**9),
        seed=whole(body, "seed", None, -(2**63), 2**63 - 1),
        bias=weights,
    )


def request(body: dict[str, Any], *, chat: bool, prompts: Sequence[Sequence[int]], texts: Sequence[str]) -> Asked:
    """A request whose prompts are known already."""
    if body.get("chat_template") or (body.get("chat_template_kwargs") or {}).get("chat_template"):
        raise RefusedError("Chat template is passed with request, but --trust-request-chat-template is not set.")
    if body.get("prompt_embeds"):
        raise RefusedError("You must set `--enable-prompt-embeds` to input `prompt_embeds`.", param="prompt_embeds")
    longest = max(map(len, prompts))
    if longest >= MAX_LENGTH:
        message = f"This model's maximum context length is {MAX_LENGTH} tokens. However, your prompt contains {longest} tokens."
        raise RefusedError(message, param="input_tokens")
    name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    least = 0 if body.get("echo") else 1
    asked_for = whole(body, name, MAX_LENGTH if chat else 16, least, MAX_LENGTH)
    options = body.get("stream_options")
    if options is not None and (not body.get("stream") or not isinstance(options, dict)):
        raise RefusedError("Stream options can only be defined when `stream=True`.", param="stream_options")
    if body.get("cache_salt") == "":
        raise RefusedError("Parameter 'cache_salt' must be a non-empty string if provided.", param="cache_salt")
    n = whole(body, "n", 1, 1, 1 if body.get("temperature") == 0 else _MAX_N)
    shorter = whole(body, "truncate_prompt_tokens", None, -1, MAX_LENGTH)
    if shorter is not None and shorter > 0:
        prompts = [prompt[-shorter:] for prompt in prompts]
    forced, call = structure.forced(body) if chat or body.get("structured_outputs") else ("", "")
    max_tokens = min(asked_for, MAX_LENGTH - longest)
    return Asked(
        chat=chat,
        model=str(body.get("model") or ""),
        prompts=tuple(tuple(prompt) for prompt in prompts),
        texts=tuple(texts),
        max_tokens=max_tokens,
        min_tokens=whole(body, "min_tokens", 0, 0, max_tokens),
        n=n,
        sampling=sampling(body),
        stops=strings(body, "stop", _MAX_STOPS),
        stop_ids=tokens(body, "stop_token_ids"),
        bad_words=tuple(tuple(readable(word, "bad_words")) for word in strings(body, "bad_words", _MAX_STOPS)),
        prompt_logprobs=whole(body, "prompt_logprobs", None, 0, _MAX_LOGPROBS),
        ignore_eos=bool(body.get("ignore_eos")),
        keep_stop=bool(body.get("include_stop_str_in_output")),
        echo=bool(body.get("echo")) and not chat,
        logprobs=_logprobs(body, chat=chat),
        token_ids=bool(body.get("return_token_ids")),
        stream=bool(body.get("stream")),
        include_usage=bool((options or {}).get("include_usage")),
        continuous_usage=bool((options or {}).get("continuous_usage_stats")),
        forced=forced,
        call=call,
    )


def _logprobs(body: dict[str, Any], *, chat: bool) -> int | None:
    if not chat:
        found: int | None = whole(body, "logprobs", None, 0, _MAX_LOGPROBS)
        return found
    wanted = whole(body, "top_logprobs", None, 0, _MAX_LOGPROBS)
    if wanted is not None and not body.get("logprobs"):
        raise RefusedError("when using `top_logprobs`, `logprobs` must be set to true.", param="top_logprobs")
    return (wanted or 0) if body.get("logprobs") else None


def messages(body: dict[str, Any]) -> list[dict[str, str]]:
    """Messages as the template takes them: roles and plain text."""
    given = body.get("messages")
    if not isinstance(given, list):
        raise RefusedError("1 validation error:\n  messages should be a list", kind="Bad Request", param="body.messages")
    if not given:
        raise RefusedError("Cannot apply chat template to an empty conversation.")
    if len(given) > MAX_LENGTH:
        raise RefusedError(f"This model's maximum context length is {MAX_LENGTH} tokens. There are {len(given)} messages.")
    return [_message(each) for each in given]


def _message(message: Any) -> dict[str, str]:
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise RefusedError("1 validation error:\n  a message has a role of the wire format", param="body.messages")
    text = _content(message.get("content"))
    for call in message.get("tool_calls") or []:
        text += f"<tool_call>{json.dumps(call['function'])}</tool_call>"
    return {"role": str(message["role"]), "content": text}


def _content(content: Any) -> str:
    if content is None:
        return ""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list):
        raise RefusedError("1 validation error:\n  content should be a string or a list of parts", param="body.messages")
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise RefusedError("this is not a multimodal model")
        readable(part["text"], "messages")
    return "\n".join(part["text"] for part in parts)


def prompts(body: dict[str, Any]) -> tuple[list[list[int]], list[str]]:
    """Prompts of a completion as token ids and as text: a text, a list of texts, ids, or a list of lists of ids."""
    given = body.get("prompt")
    if isinstance(given, list) and given and all(isinstance(each, int) and not isinstance(each, bool) for each in given):
        given = [given]
    listed = given if isinstance(given, list) else [given]
    if not listed or len(listed) > _MAX_PROMPTS:
        raise RefusedError(f"prompt list length {len(listed)} is not between 1 and {_MAX_PROMPTS}", param="prompt")
    ids = [_prompt(each) for each in listed]
    return ids, [each if isinstance(each, str) else tokenizer.decode(ids[at]) for at, each in enumerate(listed)]


def _prompt(prompt: Any) -> list[int]:
    if not prompt or not isinstance(prompt, str | list):
        raise RefusedError("Either prompt or prompt_embeds must be provided and non-empty.", param="prompt")
    if isinstance(prompt, str):
        if len(prompt) > MAX_LENGTH * 16:
            raise RefusedError(f"This model's maximum context length is {MAX_LENGTH} tokens.", param="prompt")
        return readable(prompt, "prompt")
    if not all(isinstance(each, int) and 0 <= each < tokenizer.VOCABULARY for each in prompt):
        raise RefusedError("Token id is out of vocabulary", param="prompt")
    return list(prompt)
