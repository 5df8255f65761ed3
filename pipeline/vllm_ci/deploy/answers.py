"""Answers of OpenAI-compatible servers as they are compared: finish reasons and tokens, and what a request asked for. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_WORD = re.compile(r"\s*\S+")


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a body says.

    Attributes:
        finish: Finish reason of each choice.
        tokens: All choices one after the other: ids where the server sent them (``return_token_ids``), else words.
        whole: It was not cut off: a stream has ended as it should, an object can be read.
    """

    finish: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    whole: bool = False


def said(body: bytes) -> Said:
    """Read the body of an answer, streamed or not; a body of another kind says nothing."""
    text = body.decode("utf-8", "replace").lstrip()
    if text.startswith(("data:", ":")):
        return _streamed(text)
    parsed = _object(text)
    return _of_choices([parsed], whole="choices" in parsed or "error" in parsed or "data" in parsed)


def greedy(body: bytes) -> bool:
    """Whether a request asks for the most likely tokens, so that two servers with the same model say the same."""
    asked = _object(body.decode("utf-8", "replace"))
    one = asked.get("n") in (None, 1) and asked.get("best_of") in (None, 1) and not asked.get("use_beam_search")
    return bool(one and isinstance(asked.get("temperature"), int | float) and asked["temperature"] == 0)


def agreed(one: Iterable[str], other: Iterable[str]) -> int:
    """How many tokens are the same from the beginning on."""
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count


def _streamed(text: str) -> Said:
    # Not str.splitlines(): JSON may contain characters that it takes for the end of a line, like U+2028.
    lines = [line[5:].strip() for line in text.replace("\r", "\n").split("\n") if line.startswith("data:")]
    ended = bool(lines) and lines[-1] == "[DONE]"
    return _of_choices([_object(line) for line in lines if line != "[DONE]"], whole=ended)


def _of_choices(parts: Iterable[Mapping[str, Any]], *, whole: bool) -> Said:
    texts: dict[int, str] = {}
    ids: dict[int, list[str]] = {}
    finish: dict[int, str] = {}
    for part in parts:
        choices = part.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            if isinstance(choice, dict):
                index = choice["index"] if isinstance(choice.get("index"), int) else 0
                texts[index] = texts.get(index, "") + _text(choice)
                found = choice.get("token_ids")
                ids.setdefault(index, []).extend(map(str, found if isinstance(found, list) else []))
                if choice.get("finish_reason"):
                    finish[index] = str(choice["finish_reason"])
    tokens = [token for index in sorted(texts) for token in ids[index] or _WORD.findall(texts[index])]
    return Said(finish=tuple(finish[index] for index in sorted(finish)), tokens=tuple(tokens), whole=whole)


def _text(choice: Mapping[str, Any]) -> str:
    message = choice.get("delta") or choice.get("message") or choice
    if not isinstance(message, dict):
        return ""
    parts = [message.get(name) for name in ("reasoning_content", "reasoning", "content", "text")]
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, dict) else None
        parts += [function.get(name) for name in ("name", "arguments")] if isinstance(function, dict) else []
    return "".join(each for each in parts if isinstance(each, str))


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
