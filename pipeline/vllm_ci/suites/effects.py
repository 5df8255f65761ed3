"""Whether a field of a request had an effect on the answer: each function gives the reason why not, empty if it had."""

from __future__ import annotations

import json
from collections.abc import Callable

from vllm_ci.suites.answers import Json

IGNORED = "is accepted and ignored"


def said(body: Json) -> str:
    """The text of the first choice."""
    first = choice(body)
    return str(first["message"].get("content") if "message" in first else first["text"])


def choice(body: Json) -> Json:
    """The first choice."""
    found: Json = body["choices"][0]
    return found


def has_choices(body: Json) -> str:
    """Whether there is a list of choices."""
    return "" if isinstance(body["choices"], list) else "an answer has no choices"


def has_choice(body: Json) -> str:
    """Whether there is a choice."""
    return "" if choice(body) is not None else "an answer has no choice"


def has_data(body: Json) -> str:
    """Whether there are embeddings."""
    return "" if isinstance(body["data"], list) and body["data"] else "the answer has no data"


def has_tokens(body: Json) -> str:
    """Whether there are tokens."""
    return "" if isinstance(body["tokens"], list) and body["tokens"] else "the answer has no tokens"


def has_usage(body: Json) -> str:
    """Whether the tokens of the answer are counted."""
    return "" if isinstance((body.get("usage") or {}).get("completion_tokens"), int) else "answers have no usage"


def has_token_ids(body: Json) -> str:
    """Whether the ids of the tokens are returned."""
    return "" if choice(body).get("token_ids") else "return_token_ids returns none"


def has_logprobs(body: Json) -> str:
    """Whether there are log probabilities."""
    return "" if choice(body).get("logprobs") else f"logprobs {IGNORED}"


def has_prompt_logprobs(body: Json) -> str:
    """Whether there are log probabilities of the prompt."""
    return "" if choice(body).get("prompt_logprobs") else f"prompt_logprobs {IGNORED}"


def echoes(body: Json) -> str:
    """Whether the prompt is repeated."""
    return "" if str(choice(body)["text"]).lstrip().startswith("hello world") else f"echo {IGNORED}"


def two_choices(body: Json) -> str:
    """Whether there are two choices."""
    return "" if len(body["choices"]) == 2 else f"n=2 {IGNORED}"


def called(body: Json) -> str:
    """Whether a tool was called."""
    return "" if choice(body)["message"].get("tool_calls") else f"a named tool_choice makes no call: it {IGNORED}"


def is_one(body: Json) -> str:
    """Whether the answer follows the schema, or was cut before its end."""
    text = str(choice(body)["message"]["content"]).strip()
    cut = choice(body)["finish_reason"] == "length" and text.startswith("{")  # random weights may write blanks without end
    try:
        return "" if cut or json.loads(text) == {"n": 1} else f"response_format {IGNORED}"
    except ValueError:
        return f"response_format {IGNORED}"


def is_blue(body: Json) -> str:
    """Whether the answer is the only allowed one."""
    return "" if str(choice(body)["message"]["content"]).strip() == "blue" else f"structured_outputs {IGNORED}"


def counts(tokens: int) -> Callable[[Json], str]:
    """Whether an answer has so many tokens."""

    def look(body: Json) -> str:
        usage = body.get("usage") or {}
        count = usage.get("completion_tokens")
        if count is None:
            return "answers have no usage, so it cannot be seen"
        return "" if count == tokens else f"{count} tokens are returned instead of {tokens}: it {IGNORED}"

    return look
