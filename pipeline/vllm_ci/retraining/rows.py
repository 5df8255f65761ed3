"""Rows of prepared data: conversations whose last message is the answer, one JSON object a line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vllm_ci.domain.errors import FailedError
from vllm_ci.evidence import strict
from vllm_ci.retraining.evaluating import Row

TRAIN, VALIDATION, TEST = "train.jsonl", "validation.jsonl", "test.jsonl"
_MOST_NAMED = 5


def read(place: Path) -> list[Row]:
    """The rows of a file.

    Raises:
        FailedError: A line is not a conversation; the message names the lines.
    """
    found: list[Row] = []
    problems: list[str] = []
    for number, line in enumerate(place.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            found.append(_row(json.loads(line)))
        except (ValueError, RecursionError) as error:
            problems.append(f"line {number}: {error}")
    if problems:
        raise FailedError(
            f"{len(problems)} lines of {place.name} are not conversations",
            why="; ".join(problems[:_MOST_NAMED]),
            remedy='each line is an object like {"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}',
        )
    return found


def files(folder: Path) -> list[Path]:
    """The files of prepared data: rows, and what else lies beside them (its card), but nothing hidden."""
    return [each for each in sorted(folder.iterdir()) if each.is_file() and not each.name.startswith(".")]


def check(folder: Path) -> dict[str, int]:
    """Rows by file, after it was made sure that nothing of the test rows is trained on.

    Raises:
        FailedError: A file is missing or has no rows, a line is not a conversation, or a question is in two files.
    """
    counts: dict[str, int] = {}
    asked: dict[str, dict[str, str]] = {}
    for name in (TRAIN, VALIDATION, TEST):
        place = folder / name
        if not place.is_file() and name == VALIDATION:
            continue
        rows = read(place) if place.is_file() else []
        if not rows and name != VALIDATION:
            raise FailedError(
                f"{name} has no rows", why="there is nothing to train on or to test with", remedy=f"add rows to {place}"
            )
        counts[name] = len(rows)
        asked[name] = {_question(each.messages): each.id for each in rows}
    held = asked[TEST]
    for name in (TRAIN, VALIDATION):
        if both := sorted(set(asked.get(name, {})) & set(held)):
            named = ", ".join(f"{asked[name][each]} ({held[each]} in {TEST})" for each in both[:_MOST_NAMED])
            raise FailedError(
                f"{len(both)} questions of {TEST} are in {name} as well",
                why=f"the test would measure what was learnt by heart: {named}",
                remedy="remove them from one of the files",
            )
    return counts


def _row(value: Any) -> Row:
    messages = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(messages, list) or len(messages) < 2:
        raise ValueError("it has no `messages` with a question and an answer")
    for each in messages:
        texts = [each.get("role"), each.get("content")] if isinstance(each, dict) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a message has no role, or no text as its content")
    last = messages[-1]
    if last["role"] != "assistant" or not last["content"].strip():
        raise ValueError("the last message is not an answer of the assistant")
    plain = [{"role": each["role"], "content": each["content"]} for each in messages]
    return Row(id=str(value.get("id") or _name(plain)), messages=plain[:-1], expected=last["content"])


def _name(messages: Sequence[Mapping[str, str]]) -> str:
    return hashlib.sha256(strict.canonical(messages)).hexdigest()[:12]


def _question(messages: Sequence[Mapping[str, Any]]) -> str:
    """What is asked, without differences in spaces and case."""
    return "\n".join(f"{each['role']}: {' '.join(each['content'].split()).casefold()}" for each in messages)
