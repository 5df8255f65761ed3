"""One chunk of a streamed completion (OpenAI wire format: ``chat.completion.chunk`` and streamed ``text_completion``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import pydantic_core

Json = dict[str, object]
DONE = "[DONE]"


def json_object(text: str) -> Json | None:
    """The JSON object that ``text`` is, ``None`` when it is none.

    pydantic's parser takes half the time; the standard library's takes more (lone surrogates), so it has the last word.
    """
    try:
        found = pydantic_core.from_json(text)
    except ValueError:
        try:
            found = json.loads(text)
        except ValueError:
            return None
    return found if isinstance(found, dict) else None


class Chunk(NamedTuple):
    """One JSON object of the stream and when it arrived."""

    at_ns: int
    body: Json

    @property
    def choices(self) -> Sequence[Json]:
        """Its choices; none in a usage chunk."""
        found = self.body.get("choices")
        return [choice for choice in found if isinstance(choice, dict)] if isinstance(found, list) else []

    @property
    def usage(self) -> Json | None:
        """Its usage object; ``null`` and absent are the same."""
        found = self.body.get("usage")
        return found if isinstance(found, dict) else None

    def counted(self, name: str) -> int | None:
        """A number of its usage (``completion_tokens``), ``None`` when it has none."""
        return number(self.usage, name)


def number(usage: Json | None, name: str) -> int | None:
    """An integer of a usage object, ``None`` when there is none."""
    found = usage.get(name) if usage is not None else None
    return found if isinstance(found, int) else None


def has_tokens(choice: Json) -> bool:
    """Whether a choice carries generated tokens, as far as it tells itself.

    By its token ids (``return_token_ids``), else by its content; an empty delta that announces no role counts, because a token
    may decode to no text.
    """
    ids = choice.get("token_ids")
    if isinstance(ids, list):
        return bool(ids)
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return isinstance(choice.get("text"), str)
    return "role" not in delta or any(value for name, value in delta.items() if name != "role")
