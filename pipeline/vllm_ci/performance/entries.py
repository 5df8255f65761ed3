"""Entries of workload files: what one parsed line or item means. Pure functions."""

from __future__ import annotations

import datetime as dt
import itertools
import math
from collections.abc import Mapping
from typing import Any

from vllm_ci.performance.recorded import BLOCK_TOKENS, Traced, Written

MOST_TOKENS = 10_000_000
_DEFAULT_TOKENS = 128
_CHARACTERS_PER_TOKEN = 4
"""Answers in ShareGPT files have no token counts; this is the usual estimate for English."""
ARRIVAL = ("at_s", "timestamp", "arrival_time", "arrived_at")
PROMPT = ("contexttokens", "request tokens", "input_length", "prompt_tokens", "num_prefill_tokens", "input_tokens")
OUTPUT = ("generatedtokens", "response tokens", "output_length", "output_tokens", "num_decode_tokens")
"""Columns of the Azure traces, BurstGPT, Mooncake, and the simulators Vidur and Splitwise, in lower case."""
_OURS = {"model", "messages", "prompt", "max_tokens", "max_completion_tokens", "stream", "stream_options", *ARRIVAL}
_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "system": "system",
}
Entry = Written | Traced


class WrongError(ValueError):
    """What is wrong with an entry."""


def request(found: Mapping[str, Any]) -> Written:
    """A request of the OpenAI format.

    Raises:
        WrongError: It is not one.
    """
    messages = found.get("messages")
    if messages is None:
        if not isinstance(found.get("prompt"), str):
            raise WrongError("`messages` must be a list, or `prompt` must be a string")
        messages = [{"role": "user", "content": found["prompt"]}]
    if not isinstance(messages, list) or not messages:
        raise WrongError("`messages` must be a list that is not empty")
    for message in messages:
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise WrongError("each message needs `role` and `content` as strings")
    tokens = found.get("max_completion_tokens") or found.get("max_tokens", _DEFAULT_TOKENS)
    return Written(
        messages=tuple(messages),
        output_tokens=count(tokens, "max_tokens"),
        fields={key: value for key, value in found.items() if key not in _OURS},
        at_s=_arrival(found),
    )


def conversation(found: object) -> list[Entry]:
    """The turns of a ShareGPT conversation; none if the model says nothing in it.

    Raises:
        WrongError: It is not one.
    """
    said = found.get("conversations") if isinstance(found, dict) else None
    if not isinstance(said, list):
        raise WrongError("an item needs `conversations`, a list")
    messages: list[Mapping[str, str]] = []
    turns: list[Entry] = []
    for each in said:
        role = _ROLES.get(str(each.get("from") or each.get("role"))) if isinstance(each, dict) else None
        text = (each.get("value") or each.get("content") or "") if isinstance(each, dict) else None
        if role is None or not isinstance(text, str):
            raise WrongError("each message of `conversations` needs `from` (human, gpt, system) and `value`, a string")
        if role == "assistant" and messages and messages[-1]["role"] == "user":
            tokens = max(1, min(len(text) // _CHARACTERS_PER_TOKEN, MOST_TOKENS))
            turns.append(Written(messages=tuple(messages), output_tokens=tokens, later=bool(turns)))
        messages.append({"role": role, "content": text})
    return turns


def traced(found: Mapping[str, Any], *, milliseconds: bool) -> Traced:
    """A row of a trace.

    Args:
        found: Values by lower-case column.
        milliseconds: Times are milliseconds.

    Raises:
        WrongError: A column is missing or wrong.
    """
    at_s = _arrival(found)
    blocks = found.get("hash_ids") or []
    if not isinstance(blocks, list) or not all(isinstance(each, int) for each in blocks):
        raise WrongError("`hash_ids` must be a list of integers")
    prompt = _column(found, PROMPT, "prompt tokens")
    if blocks and not len(blocks) - 1 <= prompt / BLOCK_TOKENS <= len(blocks):
        raise WrongError(f"{len(blocks)} blocks of {BLOCK_TOKENS} tokens do not hold {prompt} tokens")
    return Traced(
        prompt_tokens=prompt,
        output_tokens=_column(found, OUTPUT, "output tokens"),
        at_s=at_s / 1000 if at_s is not None and milliseconds else at_s,
        blocks=tuple(blocks),
    )


def _column(found: Mapping[str, Any], names: tuple[str, ...], what: str) -> int:
    name = next((name for name in names if name in found), None)
    if name is None:
        raise WrongError(f"no {what} (one of {', '.join(names)})")
    return count(found[name], name, least=0)


def count(value: object, name: str, *, least: int = 1) -> int:
    """A number of tokens.

    Raises:
        WrongError: It is none.
    """
    try:
        number = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not (least <= number <= MOST_TOKENS and number == int(number)):
        raise WrongError(f"`{name}` must be an integer from {least} to {MOST_TOKENS}, not {str(value)[:40]!r}")
    return int(number)


def _arrival(found: Mapping[str, Any]) -> float | None:
    """Seconds; a date and time is turned into those since 1970."""
    name = next((name for name in ARRIVAL if found.get(name) is not None), None)
    if name is None:
        return None
    value = found[name]
    try:
        seconds = float("" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        try:
            whole, _, fraction = str(value).partition(".")  # Azure's traces have seven digits
            digits = "".join(itertools.takewhile(str.isdigit, fraction))
            moment = dt.datetime.fromisoformat(whole.strip() + fraction[len(digits) :].strip())
            seconds = moment.replace(tzinfo=moment.tzinfo or dt.UTC).timestamp() + float(f"0.{digits or 0}")
        except (ValueError, OverflowError) as error:
            raise WrongError(f"`{name}` is neither seconds nor a date and time: {str(value)[:40]!r}") from error
    if not math.isfinite(seconds) or seconds < 0:
        raise WrongError(f"`{name}` must be a time of 0 or more, not {str(value)[:40]!r}")
    return seconds
