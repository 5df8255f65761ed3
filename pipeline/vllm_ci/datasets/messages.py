"""Conversations in the form of OpenAI's chat API, checked and reduced to what a chat template reads."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from vllm_ci.datasets import lines
from vllm_ci.datasets.lines import Unusable
from vllm_ci.datasets.record import Limits

Message = dict[str, Any]
_ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Messages that end with the answer to be learned.

    Attributes:
        messages: At least one of the user, and an answer at the end.
        tools: Descriptions of the tools that the model could call.
        rejected: A worse answer, for training on preferences.
    """

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    rejected: Message | None = None

    def to_json(self) -> dict[str, Any]:
        """Its part of a row."""
        made: dict[str, Any] = {"messages": list(self.messages)}
        if self.tools:
            made["tools"] = list(self.tools)
        if self.rejected is not None:
            made["rejected"] = self.rejected
        return made

    @property
    def identity(self) -> str:
        """Digest of the content: equal for equal conversations, wherever they come from."""
        return hashlib.sha256(canonical(self.to_json())).hexdigest()


def of_row(row: dict[str, Any]) -> Conversation:
    """A conversation as :meth:`Conversation.to_json` wrote it."""
    return Conversation(messages=tuple(row["messages"]), tools=tuple(row.get("tools", ())), rejected=row.get("rejected"))


def canonical(value: Any) -> bytes:
    """The same bytes for the same value."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def conversation(messages: Any, limits: Limits, *, tools: Any = None, rejected: Any = None) -> Conversation:
    """Check messages, and keep of them what matters.

    Raises:
        Unusable: They are not a conversation that ends with an answer.
    """
    if not isinstance(messages, list) or not messages:
        raise Unusable(reason="bad-messages", detail="messages is not a list of messages")
    if len(messages) > limits.messages:
        raise Unusable(reason="too-many-messages", detail=f"{len(messages)} messages, more than {limits.messages}")
    kept = tuple(_message(each, f"message {number}", limits) for number, each in enumerate(messages, 1))
    if kept[-1]["role"] != "assistant":
        raise Unusable(reason="no-answer", detail="the last message is not of the assistant")
    if not any(each["role"] == "user" for each in kept[:-1]):
        raise Unusable(reason="no-question", detail="no message of the user comes before the answer")
    return Conversation(messages=kept, tools=_tools(tools), rejected=None if rejected is None else _answer(rejected, limits))


def _answer(value: Any, limits: Limits) -> Message:
    made = _message(value, "rejected", limits)
    if made["role"] != "assistant":
        raise Unusable(reason="bad-messages", detail="the rejected answer is not of the assistant")
    return made


def _message(value: Any, where: str, limits: Limits) -> Message:
    if not isinstance(value, dict):
        raise Unusable(reason="bad-messages", detail=f"{where} is not an object")
    role = {"developer": "system"}.get(str(value.get("role")), value.get("role"))
    if role not in _ROLES:
        raise Unusable(reason="bad-role", detail=f"the role of {where} is not one of {', '.join(_ROLES)}")
    made: Message = {"role": role, "content": _content(value.get("content"), where)}
    if calls := value.get("tool_calls"):
        made["tool_calls"] = _calls(calls, where, limits)
    if role == "tool" and isinstance(value.get("tool_call_id"), str):
        made["tool_call_id"] = value["tool_call_id"]
    if not made["content"].strip() and "tool_calls" not in made:
        raise Unusable(reason="empty", detail=f"{where} is empty")
    return made


def _content(value: Any, where: str) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        raise Unusable(reason="bad-messages", detail=f"the content of {where} is not text")
    if any(part.get("type") not in ("text", "output_text") or not isinstance(part.get("text"), str) for part in value):
        raise Unusable(reason="not-text", detail=f"{where} has parts that are not text")
    return "".join(part["text"] for part in value)


def _calls(value: Any, where: str, limits: Limits) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(call, dict) for call in value):
        raise Unusable(reason="bad-messages", detail=f"tool_calls of {where} is not a list of calls")
    made = []
    for call in value:
        function = call.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise Unusable(reason="bad-messages", detail=f"a tool call of {where} names no function")
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            try:
                arguments = lines.value(arguments or "{}", limits)
            except Unusable as error:
                detail = f"the arguments of a tool call of {where}: {error.detail}"
                raise Unusable(reason="bad-messages", detail=detail) from error
        made.append({"type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return made


def _tools(value: Any) -> tuple[dict[str, Any], ...]:
    if not value:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise Unusable(reason="bad-tools", detail="tools is not a list of objects")
    return tuple(value)
