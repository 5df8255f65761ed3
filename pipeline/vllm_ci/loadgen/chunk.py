"""One chunk of a streamed completion (OpenAI wire format: ``chat.completion.chunk`` and streamed ``text_completion``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import pydantic_core

Json = dict[str, object]
DONE = "[DONE]"


def json_object(text: str) -> Json | None:
    """Parse ``text`` as a JSON object; ``None`` if it is not one. ``NaN`` and ``Infinity`` are no JSON (RFC 8259, section 6).

    pydantic's parser is twice as fast; the standard library's accepts more (lone surrogates), so it is tried second.
    """
    try:
        found = pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError:
        try:
            found = json.loads(text, parse_constant=no_number)
        except ValueError:
            return None
    return found if isinstance(found, dict) else None


def no_number(name: str) -> NoReturn:
    """For ``parse_constant`` of :func:`json.loads`: refuses ``NaN`` and ``Infinity``, which are no JSON (RFC 8259, section 6).

    Raises:
        ValueError: Always.
    """
    raise ValueError(f"{name} is no number of JSON")


class Chunk(NamedTuple):
    """One JSON object of the stream and the time it arrived."""

    at_ns: int
    body: Json

    @property
    def choices(self) -> Sequence[Json]:
        """Its choices; empty in a usage chunk."""
        found = self.body.get("choices")
        return [choice for choice in found if isinstance(choice, dict)] if isinstance(found, list) else []

    @property
    def usage(self) -> Json | None:
        """Its usage object; ``None`` if it is ``null`` or absent."""
        found = self.body.get("usage")
        return found if isinstance(found, dict) else None

    def counted(self, name: str) -> int | None:
        """A number of its usage (``completion_tokens``); ``None`` if absent."""
        return number(self.usage, name)


def number(usage: Json | None, name: str) -> int | None:
    """An integer of a usage object; ``None`` if absent."""
    found = usage.get(name) if usage is not None else None
    return found if isinstance(found, int) else None


def has_tokens(choice: Json) -> bool:
    """Whether a choice contains generated tokens.

    Decided by its token ids (``return_token_ids``), otherwise by its content. An empty delta without a role counts, because a
    token may decode to no text, unless it only brings the finish reason.
    """
    ids = choice.get("token_ids")
    if isinstance(ids, list):
        return bool(ids)
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return isinstance(choice.get("text"), str)
    bare = choice.get("finish_reason") and delta.get("content") is None
    return has_content(choice) or not ("role" in delta or bare)


def has_content(choice: Json) -> bool:
    """Whether a choice contains something that a client shows or uses: text, reasoning, a refusal, a part of a call."""
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return bool(choice.get("text"))
    return any(value for name, value in delta.items() if name != "role")
