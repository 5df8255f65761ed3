"""The whole answer to a request of the chat API, also where it was sent as a stream; whatever is not whole is refused. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vllm_ci.datasets import lines
from vllm_ci.datasets.lines import Unusable
from vllm_ci.datasets.record import Limits
from vllm_ci.loadgen import sse

_JOINED = ("content", "reasoning_content", "reasoning", "refusal")
_CALL_JOINED = ("name", "arguments")


def whole(body: bytes, *, streamed: bool, limits: Limits) -> dict[str, Any]:
    """The answer as one object of the API (``chat.completion``).

    Args:
        body: Of the answer.
        streamed: It is a stream of server-sent events.
        limits: Bounds of a row.

    Raises:
        Unusable: It broke off, says that something failed, or is not of this API.
    """
    answer = _joined(body, limits) if streamed else parsed(body, limits)
    if answer.get("error"):
        raise Unusable(reason="failed-request", detail="the answer is an error")
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(each, dict) for each in choices):
        raise Unusable(reason="no-answer", detail="the answer has no choices")
    if not all(isinstance(each.get("finish_reason"), str) for each in choices):
        raise Unusable(reason="incomplete", detail="a choice has no finish reason")
    return answer


def parsed(body: bytes, limits: Limits) -> dict[str, Any]:
    """An object of JSON.

    Raises:
        Unusable: It is none.
    """
    found = lines.parsed(body, limits)
    if isinstance(found, Unusable):
        raise found
    return found


def _joined(body: bytes, limits: Limits) -> dict[str, Any]:
    answer: dict[str, Any] = {"object": "chat.completion"}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in _chunks(body, limits):
        if chunk.get("error"):
            raise Unusable(reason="failed-request", detail="an error was sent inside the stream")
        answer |= {name: chunk[name] for name in ("id", "created", "model", "usage") if chunk.get(name) is not None}
        for each in _objects(chunk.get("choices"), "choices"):
            _add(choices.setdefault(_index(each), {"message": {"role": "assistant"}, "finish_reason": None}), each)
    answer["choices"] = [{"index": index, **_finished(choices[index])} for index in sorted(choices)]
    return answer


def _chunks(body: bytes, limits: Limits) -> Iterator[dict[str, Any]]:
    """Objects of the events up to ``[DONE]``, which must come last."""
    events = [each.data for each in sse.decode([(0, body)])]
    if not events or events[-1].strip() != "[DONE]":
        raise Unusable(reason="incomplete", detail="the stream broke off before [DONE]")
    for each in events[:-1]:
        yield parsed(each.encode(), limits)


def _add(choice: dict[str, Any], chunk: Mapping[str, Any]) -> None:
    delta = chunk.get("delta") or {}
    if not isinstance(delta, dict):
        raise Unusable(reason="bad-messages", detail="delta is not an object")
    _append(choice["message"], delta, _JOINED)
    for each in _objects(delta.get("tool_calls"), "tool_calls"):
        call = choice.setdefault("calls", {}).setdefault(_index(each), {"type": "function", "function": {}})
        if isinstance(each.get("id"), str):
            call["id"] = each["id"]
        function = each.get("function") or {}
        if not isinstance(function, dict):
            raise Unusable(reason="bad-messages", detail="the function of a tool call is not an object")
        _append(call["function"], function, _CALL_JOINED)
    choice["finish_reason"] = chunk.get("finish_reason") or choice["finish_reason"]


def _append(whole_: dict[str, Any], part: Mapping[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        text = part.get(name)
        if text is not None and not isinstance(text, str):
            raise Unusable(reason="bad-messages", detail=f"{name} is not text")
        if text is not None:
            # Pieces are joined at the end: a long answer in small pieces takes linear time.
            whole_.setdefault(name, []).append(text)


def _finished(choice: dict[str, Any]) -> dict[str, Any]:
    message = _text({"content": [], **choice["message"]})
    if calls := choice.get("calls"):
        message["tool_calls"] = [{**calls[index], "function": _text(calls[index]["function"])} for index in sorted(calls)]
    return {"message": message, "finish_reason": choice["finish_reason"]}


def _text(pieces: Mapping[str, Any]) -> dict[str, Any]:
    return {name: "".join(value) if isinstance(value, list) else value for name, value in pieces.items()}


def _objects(value: Any, what: str) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise Unusable(reason="bad-messages", detail=f"{what} is not a list of objects")
    return value


def _index(value: Mapping[str, Any]) -> int:
    found = value.get("index", 0)
    if isinstance(found, bool) or not isinstance(found, int):
        raise Unusable(reason="bad-messages", detail="index is not a whole number")
    return found
