"""Answers of a server: every field is read with a message for the case that it is missing or of another kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from vllm_ci.loadgen import sse
from vllm_ci.loadgen.chunk import json_object, no_number
from vllm_ci.suites.verdicts import Fault

Json = dict[str, Any]
_NAMES = {dict: "an object", list: "a list", str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_EXCERPT = 120


def document(answer: httpx.Response) -> Any:
    """The JSON of a body. ``NaN`` and ``Infinity`` are no JSON (RFC 8259, section 6), although Python reads them.

    Raises:
        ValueError: The body is no JSON.
    """
    return answer.json(parse_constant=no_number)


def chunks(body: bytes) -> list[Json]:
    """The JSON objects of a streamed answer.

    Lines end as in the HTML Living Standard (section 9.2.6): a JSON string may contain other characters that Python takes for
    the end of a line, like U+2028.

    Raises:
        Fault: The data of an event is neither ``[DONE]`` nor a JSON object.
    """
    found = [json_object(event.data) for event in sse.decode([(0, body)]) if event.data.strip() != "[DONE]"]
    whole = [chunk for chunk in found if chunk is not None]
    if len(whole) < len(found):
        raise Fault("the data of an event is no JSON object")
    return whole


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer in text, of chat or of completions.

    Attributes:
        where: The request, for messages.
        body: The JSON object.
        is_chat: It is an answer of chat.
    """

    where: str
    body: Json
    is_chat: bool

    def read(self, *path: str | int, of: type | tuple[type, ...] = object) -> Any:
        """The value of a field; see :func:`read`."""
        return read(self.body, self.where, *path, of=of)

    @property
    def choices(self) -> list[Json]:
        """All choices."""
        found: list[Json] = self.read("choices", of=list)
        if not found:
            raise Fault(f"{self.where}: the answer has no choice")
        for at in range(len(found)):
            self.read("choices", at, of=dict)
        return found

    @property
    def choice(self) -> Json:
        """The first choice."""
        return self.choices[0]

    @property
    def texts(self) -> list[str]:
        """Text of every choice; empty where it is null."""
        return [self._text(at) for at in range(len(self.choices))]

    @property
    def text(self) -> str:
        """Text of the first choice; empty if it is null."""
        return self.texts[0]

    @property
    def finish_reason(self) -> str | None:
        """Why the first choice ended."""
        found: str | None = self.read("choices", 0, "finish_reason", of=(str, type(None)))
        return found

    @property
    def calls(self) -> list[Json]:
        """Tool calls of the first choice."""
        message: Json = self.read("choices", 0, "message", of=dict)
        calls = message.get("tool_calls") or []
        if not isinstance(calls, list):
            raise Fault(f"{self.where}: choices[0].message.tool_calls is {_shown(calls)}, not a list")
        return calls

    @property
    def completion_tokens(self) -> int | None:
        """Tokens of the answer by its usage; ``None`` without usage."""
        return self._counted("completion_tokens")

    @property
    def prompt_tokens(self) -> int | None:
        """Tokens of the prompt by its usage; ``None`` without usage."""
        return self._counted("prompt_tokens")

    def count(self, name: str) -> int:
        """A count of the usage, which must be there."""
        found: int = self.read("usage", name, of=int)
        return found

    @property
    def token_ids(self) -> list[int]:
        """Token ids of the first choice; empty if the server does not return them."""
        found: list[int] = self.choice.get("token_ids") or []
        return found

    @property
    def prompt_token_ids(self) -> list[int]:
        """Token ids of the prompt, which must be there."""
        path = ("prompt_token_ids",) if self.is_chat else ("choices", 0, "prompt_token_ids")
        found: list[int] = self.read(*path, of=list)
        return found

    @property
    def pieces(self) -> tuple[object, ...]:
        """What was generated, for comparisons: token ids if the server returns them, otherwise characters."""
        return tuple(self.token_ids or self.text)

    def _text(self, at: int) -> str:
        if not self.is_chat:
            return str(self.read("choices", at, "text", of=str))
        content = self.read("choices", at, "message", of=dict).get("content")
        if content is not None and not isinstance(content, str):
            raise Fault(f"{self.where}: choices[{at}].message.content is {_shown(content)}, not text")
        return content or ""

    def _counted(self, name: str) -> int | None:
        usage = self.body.get("usage")
        found = usage.get(name) if isinstance(usage, dict) else None
        return found if isinstance(found, int) else None


def read(body: object, where: str, *path: str | int, of: type | tuple[type, ...] = object) -> Any:
    """The value at a path of a JSON value.

    Args:
        body: The JSON value.
        where: What was requested, for messages.
        path: Names and indices.
        of: Accepted types.

    Raises:
        Fault: There is no such field, or it has another type.
    """
    value, place = body, ""
    for step in path:
        value = _step(value, where, place, step)
        place += f"[{step}]" if isinstance(step, int) else f"{'.' if place else ''}{step}"
    kinds = of if isinstance(of, tuple) else (of,)
    wrong_number = isinstance(value, bool) and object not in kinds and bool not in kinds
    if wrong_number or not isinstance(value, of):
        names = " or ".join(_NAMES.get(kind, "null") for kind in kinds)
        raise Fault(f"{where}: {place or 'the answer'} is {_shown(value)}, not {names}")
    return value


def _step(value: object, where: str, place: str, step: str | int) -> object:
    what = place or "the answer"
    if isinstance(step, int):
        if not isinstance(value, list):
            raise Fault(f"{where}: {what} is {_shown(value)}, not a list")
        if step >= len(value):
            raise Fault(f"{where}: {what} has {len(value)} entries, so there is no {what}[{step}]")
        return value[step]
    if not isinstance(value, dict):
        raise Fault(f"{where}: {what} is {_shown(value)}, not an object")
    if step not in value:
        raise Fault(f"{where}: {what} has no {step!r}: {_shown(value)}")
    return value[step]


def _shown(value: object) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}..."
