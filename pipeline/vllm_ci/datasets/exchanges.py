"""Questions and answers of training data and of the request log, as they are compared: masked, one of each conversation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from vllm_ci.datasets import masking, store
from vllm_ci.datasets.drift import Exchange
from vllm_ci.datasets.lines import Unusable
from vllm_ci.datasets.messages import Conversation

# More rows take longer and find no difference that matters.
MOST = 2000


def of_training(path: Path, regions: tuple[str, ...]) -> list[Exchange]:
    """Exchanges of prepared rows, in an order that does not depend on when they were collected."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in store.rows(path):
        messages = row.get("messages")
        if isinstance(messages, list) and len(messages) > 1 and all(isinstance(each, dict) for each in messages):
            found.setdefault(_conversation(messages), messages)
    chosen = (found[each] for each in sorted(found))
    return _some(((messages[:-1], messages[-1], "") for messages in chosen), 2 * MOST, regions)


def of_requests(rows: Iterable[Mapping[str, Any]], *, since: datetime, regions: tuple[str, ...]) -> list[Exchange]:
    """Exchanges of rows of the request log that began since then, the newest of each conversation."""
    found: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        messages = row.get("request", {}).get("messages")
        if isinstance(messages, list) and all(isinstance(each, dict) for each in messages) and _begun(row) >= since:
            name = f"{row.get('key')} {_conversation(messages)}"
            found.pop(name, None)
            found[name] = row
    newest = reversed(found.values())
    return _some((_parts(row) for row in newest), MOST, regions)


def _begun(row: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(str(row["time"]))


def _parts(row: Mapping[str, Any]) -> tuple[Sequence[Mapping[str, Any]], Mapping[str, Any], str]:
    choices = row.get("response", {}).get("choices") or [{}]
    return row["request"]["messages"], choices[0].get("message") or {}, str(choices[0].get("finish_reason") or "")


def _some(
    parts: Iterable[tuple[Sequence[Mapping[str, Any]], Mapping[str, Any], str]], most: int, regions: tuple[str, ...]
) -> list[Exchange]:
    made: list[Exchange] = []
    for messages, answer, finish in parts:
        if len(made) == most:
            break
        question = next((_text(each) for each in reversed(messages) if each.get("role") == "user"), "")
        asked, answered = _masked(question, regions), _masked(_text(answer), regions)
        if asked.strip():
            made.append(Exchange(question=asked, answer=answered, finish=finish, tools=bool(answer.get("tool_calls"))))
    return made


def _masked(text: str, regions: tuple[str, ...]) -> str:
    """As in training data, so that masking itself is no difference; long texts without a space, such as loops, as they are."""
    try:
        made, _ = masking.mask_conversation(Conversation(messages=({"content": text},)), regions)
    except Unusable:
        return text
    return str(made.messages[0]["content"])


def _conversation(messages: Sequence[Mapping[str, Any]]) -> str:
    """Turns of one conversation, and retries, have the same first question: they are not independent of each other."""
    first = next((_text(each) for each in messages if each.get("role") == "user"), "")
    return hashlib.sha256(" ".join(first.casefold().split()).encode("utf-8", "replace")).hexdigest()


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content") or message.get("refusal")
    if isinstance(content, list):
        return "".join(str(each.get("text") or "") for each in content if isinstance(each, dict))
    return content if isinstance(content, str) else ""
