"""Rows of prepared data, one JSON object a line: conversations whose last message is the answer, or preferences.

A preference has a better and a worse answer: as TRL writes it (`prompt`, `chosen`, `rejected`: lists of messages, or texts for
one message of the user and one of the assistant each), or as a conversation with a `rejected` message.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vllm_ci.datasets import lines, messages, shapes
from vllm_ci.datasets.lines import Unusable
from vllm_ci.datasets.record import Limits
from vllm_ci.domain.errors import FailedError
from vllm_ci.evidence import strict
from vllm_ci.retraining.evaluating import Row

SPLITS = TRAIN, VALIDATION, TEST = "train.jsonl", "validation.jsonl", "test.jsonl"
_MOST_NAMED = 5
_CONVERSATION = '{"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}'
_PREFERENCE = (
    '{"prompt": [{"role": "user", ...}], "chosen": [{"role": "assistant", ...}], "rejected": [{"role": "assistant", ...}]}'
)


def read(place: Path, *, answers: bool = True, preferences: bool = False) -> list[Row]:
    """The rows of a file.

    Args:
        place: The file.
        answers: Every row must end with a text that an answer can be compared with.
        preferences: Every row must have a better and a worse answer, both of them texts.

    Raises:
        FailedError: A line is not a conversation, or not a preference; the message names the lines.
    """
    found: list[Row] = []
    problems: list[str] = []
    for number, line in enumerate(place.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            found.append(_preference(_object(line)) if preferences else _row(_object(line), answers=answers))
        except (Unusable, ValueError) as error:
            problems.append(f"line {number}: {error}")
    if problems:
        raise FailedError(
            f"lines of {place.name} that are not {'preferences' if preferences else 'conversations'}: {len(problems)}",
            why="; ".join(problems[:_MOST_NAMED]),
            remedy=f"each line is an object like {_PREFERENCE if preferences else _CONVERSATION}",
        )
    return found


def write(place: Path, found: Sequence[Row]) -> None:
    """Write preferences in the one form that the training program reads."""
    answers = [[{"role": "assistant", "content": text} for text in (each.expected, each.rejected)] for each in found]
    made = [
        {"id": row.id, **row.asked, "messages": [*row.messages, chosen], "rejected": rejected}
        for row, (chosen, rejected) in zip(found, answers, strict=True)
    ]
    place.write_bytes(b"".join(messages.canonical(each) + b"\n" for each in made))


def files(folder: Path) -> list[Path]:
    """The files of prepared data: rows, and what else lies beside them (its card), but nothing hidden."""
    return [each for each in sorted(folder.iterdir()) if each.is_file() and not each.name.startswith(".")]


def check(folder: Path, *, preferences: bool = False) -> dict[str, int]:
    """Rows by file, after it was made sure that nothing of the test rows is trained on.

    Args:
        folder: Holds the files.
        preferences: The rows are preferences.

    Raises:
        FailedError: A file is missing or has no rows, a line is not a row, a question is in two files, or a test row is there
            twice.
    """
    counts: dict[str, int] = {}
    asked: dict[str, dict[str, str]] = {}
    for name in SPLITS:
        place = folder / name
        if not place.is_file() and name == VALIDATION:
            continue
        rows = read(place, answers=name == TEST, preferences=preferences) if place.is_file() else []
        if not rows and name != VALIDATION:
            raise FailedError(
                f"{name} has no rows", why="there is nothing to train on or to test with", remedy=f"add rows to {place}"
            )
        if name == TEST:
            _check_once(rows)
        counts[name] = len(rows)
        asked[name] = {_question(each.messages): each.id for each in rows}
    held = asked[TEST]
    for name in (TRAIN, VALIDATION):
        if both := sorted(set(asked.get(name, {})) & set(held)):
            named = ", ".join(f"row {asked[name][each]} is row {held[each]} of {TEST}" for each in both[:_MOST_NAMED])
            raise FailedError(
                f"questions of {TEST} that are in {name} as well: {len(both)}",
                why=f"the test would measure what was learnt by heart: {named}",
                remedy="remove them from one of the files",
            )
    return counts


def _check_once(rows: Sequence[Row]) -> None:
    """Each test row counts once: the same row again would make a difference of one row look like one of many."""
    first: dict[bytes, int] = {}
    again: list[str] = []
    for number, row in enumerate(rows, 1):
        before = first.setdefault(strict.canonical([row.asked, row.expected, row.rejected]), number)
        if before != number:
            again.append(f"row {number} is row {before}")
    if again:
        raise FailedError(
            f"rows of {TEST} that are there before: {len(again)}",
            why=f"models are compared by how many rows they answer: {', '.join(again[:_MOST_NAMED])}",
            remedy="keep each row once",
        )


def _object(line: bytes) -> dict[str, Any]:
    """The object of a line, read as strictly as collected rows: the training program and the server read it once more."""
    value = lines.parsed(line.strip(), Limits())
    if isinstance(value, Unusable):
        raise value
    return value


def _row(value: Mapping[str, Any], *, answers: bool) -> Row:
    found = value.get("messages")
    if not isinstance(found, list) or len(found) < 2:
        raise ValueError("it has no `messages` with a question and an answer")
    if not all(_is_message(each) for each in found):
        raise ValueError("a message has no role, or no text as its content")
    last = found[-1]
    text = last.get("content") or ""
    called = bool(last.get("tool_calls")) and not answers
    if last["role"] != "assistant" or not (text.strip() or called):
        raise ValueError("the last message is not an answer of the assistant")
    tools = value.get("tools") or ()
    if not isinstance(tools, list | tuple) or not all(isinstance(each, dict) for each in tools):
        raise ValueError("`tools` is not a list of objects")
    return Row(id=str(value.get("id") or _name(found)), messages=found[:-1], expected=text, tools=tuple(tools))


def _preference(value: Mapping[str, Any]) -> Row:
    limits = Limits()
    if "messages" in value and "rejected" in value:
        found = messages.conversation(value["messages"], limits, tools=value.get("tools"), rejected=value["rejected"])
    else:
        found = shapes.row(value, {}, limits).conversation
    *asked, chosen = found.messages
    if found.rejected is None:
        raise ValueError("it has no `chosen` and `rejected` answer")
    if any("tool_calls" in each or not each["content"].strip() for each in (chosen, found.rejected)):
        raise ValueError("an answer is not a text")
    if chosen["content"].strip() == found.rejected["content"].strip():
        raise ValueError("both answers are the same")
    return Row(
        id=str(value.get("id") or found.identity[:12]),
        messages=asked,
        expected=chosen["content"],
        tools=found.tools,
        rejected=found.rejected["content"],
    )


def _is_message(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        return False
    content = value.get("content")
    return isinstance(content, str) or (content is None and bool(value.get("tool_calls")))


def _name(messages: Sequence[Mapping[str, Any]]) -> str:
    return hashlib.sha256(strict.canonical(messages)).hexdigest()[:12]


def _question(messages: Sequence[Mapping[str, Any]]) -> str:
    """What is asked, without differences in spaces, case and the form of accents."""
    asked = ((each["role"], unicodedata.normalize("NFC", each.get("content") or "")) for each in messages)
    return "\n".join(f"{role}: {' '.join(text.split()).casefold()}" for role, text in asked)
