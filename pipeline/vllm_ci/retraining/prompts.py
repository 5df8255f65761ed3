"""Prompts whose answers are checked by patterns, beside the held-out rows: what must hold, and what must not get worse."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vllm_ci.datasets import lines
from vllm_ci.datasets.lines import Unusable
from vllm_ci.datasets.record import Limits
from vllm_ci.domain.errors import ConfigError
from vllm_ci.evidence import strict

_FIELDS = ("id", "messages", "match", "avoid", "always")
_ROLES = ("system", "user", "assistant")
_EXAMPLE = '{"id": "capital", "messages": [{"role": "user", "content": "..."}], "match": ["Paris"], "always": true}'
_MOST_NAMED = 5
_LONGEST_ANSWER = 80


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt and what its answer must be like.

    Attributes:
        id: Its name.
        messages: What is asked.
        match: Regular expressions that must all be found in the answer.
        avoid: Regular expressions that must not be found in it.
        always: The challenger must pass it; otherwise it must pass it only if the champion does.
    """

    id: str
    messages: Sequence[Mapping[str, str]]
    match: Sequence[str] = ()
    avoid: Sequence[str] = ()
    always: bool = False

    def problem(self, answer: str) -> str:
        """What is wrong with an answer; empty if nothing is."""
        for pattern in self.match:
            if not re.search(pattern, answer):
                return f"no `{pattern}`"
        return next((f"`{pattern}`" for pattern in self.avoid if re.search(pattern, answer)), "")


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What became of the prompts.

    Attributes:
        asked: How many there are.
        digest: Hex sha256 of prompts and patterns.
        broken: Those that the challenger has to pass and does not, with what is wrong and its answer.
    """

    asked: int
    digest: str
    broken: tuple[tuple[str, str], ...]


def check(prompts: Sequence[Prompt], champion: Sequence[str], challenger: Sequence[str]) -> Checked:
    """Check the answers of both models.

    Args:
        prompts: The prompts.
        champion: Answers of the champion, in their order.
        challenger: Answers of the challenger.
    """
    broken = []
    for prompt, before, after in zip(prompts, champion, challenger, strict=True):
        if (wrong := prompt.problem(after)) and (prompt.always or not prompt.problem(before)):
            broken.append((prompt.id, f"{wrong} in {_short(after)}"))
    return Checked(asked=len(prompts), digest=_digest([asdict(each) for each in prompts]), broken=tuple(broken))


def digest_of_questions(prompts: Sequence[Prompt]) -> str:
    """Hex sha256 of what is asked: the answers are the same, whatever patterns they are checked by."""
    return _digest([list(each.messages) for each in prompts])


def read(path: Path) -> tuple[Prompt, ...]:
    """The prompts of a file, one JSON object a line.

    Raises:
        ConfigError: It cannot be read, or a line is not a prompt; the message names the lines.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the prompts {path} cannot be read", why=str(error), remedy="correct `validate.prompts` in retrain.yaml"
        ) from error
    found: dict[str, Prompt] = {}
    problems: list[str] = []
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            made = _prompt(line, f"line {number}")
        except (Unusable, ValueError) as error:
            problems.append(f"line {number}: {error}")
            continue
        if found.setdefault(made.id, made) is not made:
            problems.append(f"line {number}: the id {made.id} is there before")
    if not found and not problems:
        problems.append("it has no lines")
    if problems:
        raise ConfigError(
            f"lines of {path} that are not prompts: {len(problems)}",
            why="; ".join(problems[:_MOST_NAMED]),
            remedy=f"each line is an object like {_EXAMPLE}",
        )
    return tuple(found.values())


def _prompt(line: bytes, name: str) -> Prompt:
    value = lines.parsed(line.strip(), Limits())
    if isinstance(value, Unusable):
        raise value
    if unknown := sorted(set(value) - set(_FIELDS)):
        raise ValueError(f"unknown: {', '.join(unknown)} (known: {', '.join(_FIELDS)})")
    messages = value.get("messages")
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise ValueError("`messages` is not a list of messages with role and text")
    if messages[-1]["role"] != "user":
        raise ValueError("the last message is not of the user")
    match, avoid = (tuple(_patterns(value.get(key, []), key)) for key in ("match", "avoid"))
    if not match and not avoid:
        raise ValueError("it has neither `match` nor `avoid`")
    identity, always = value.get("id", name), value.get("always", False)
    if not isinstance(identity, str) or not identity.strip() or not isinstance(always, bool):
        raise ValueError("`id` is not a text, or `always` is neither true nor false")
    return Prompt(id=identity, messages=messages, match=match, avoid=avoid, always=always)


def _is_message(value: Any) -> bool:
    known = isinstance(value, dict) and set(value) == {"role", "content"} and value["role"] in _ROLES
    return known and isinstance(value["content"], str)


def _patterns(value: Any, key: str) -> Iterator[str]:
    for pattern in [value] if isinstance(value, str) else value if isinstance(value, list) else [None]:
        if not isinstance(pattern, str) or not pattern:
            raise ValueError(f"`{key}` is not a list of regular expressions")
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"`{key}`: {pattern!r} is not a regular expression: {error}") from error
        yield pattern


def _short(answer: str) -> str:
    text = " ".join(answer.split())
    return repr(text if len(text) <= _LONGEST_ANSWER else f"{text[:_LONGEST_ANSWER]}...")


def _digest(value: Any) -> str:
    return hashlib.sha256(strict.canonical(value)).hexdigest()
