"""The shapes of rows that are read, told apart by their keys.

Chat messages, prompt and completion, preferences, ShareGPT, stored completions and batch outputs of OpenAI's API, and the
request log of the gateway. `docs/datasets.md` describes them.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from vllm_ci.datasets import messages
from vllm_ci.datasets.lines import Unusable
from vllm_ci.datasets.messages import Conversation
from vllm_ci.datasets.record import Limits

_SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system", "tool": "tool"}
_CUT = {"length": "was cut at its longest length", "content_filter": "was cut by a content filter"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a source.

    Attributes:
        conversation: What is learned from it.
        owners: Pseudonyms of the users and keys that it comes from.
        time: When it was written; ``None`` if the row does not say.
    """

    conversation: Conversation
    owners: frozenset[str] = frozenset()
    time: datetime | None = None


def owner(name: str) -> str:
    """Pseudonym of a user or key: the same in every file and version."""
    return hashlib.sha256(b"vllm-ci owner\0" + name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def pseudonyms(name: str) -> frozenset[str]:
    """Pseudonyms that stand for a user or key: of the name as it is written, and without spaces around it and forms of accents.

    Rows and requests to delete have both, so they meet however each was written. Case is part of a name: ids differ in it.
    """
    plain = unicodedata.normalize("NFC", name).strip()
    return frozenset(owner(each) for each in (name, plain) if each)


def row(found: Mapping[str, Any], requests: Mapping[str, Mapping[str, Any] | None], limits: Limits) -> Row:
    """The row that an object describes.

    Args:
        found: Object of one line.
        requests: Requests of a batch, by their ``custom_id``; ``None`` for one that is not unique.
        limits: Bounds of a row.

    Raises:
        Unusable: It describes none, or one that must not be used.
    """
    made = _shaped(found, requests, limits)
    time = _time(next((found[name] for name in ("time", "timestamp", "created") if name in found), None)) or made.time
    return replace(made, owners=made.owners | _named(found), time=time)


def owners(found: Mapping[str, Any]) -> frozenset[str]:
    """Pseudonyms of all that a line of the request log belongs to: its key, and the users that its request names."""
    request = found.get("request")
    return _named(found) | (_named(request) if isinstance(request, dict) else frozenset())


def _named(found: Mapping[str, Any]) -> frozenset[str]:
    users = [found.get("user"), found.get("key"), found.get("safety_identifier")]
    metadata = found.get("metadata")
    users += [metadata.get(name) for name in ("user", "user_id")] if isinstance(metadata, dict) else []
    return _owners(users)


def _shaped(found: Mapping[str, Any], requests: Mapping[str, Mapping[str, Any] | None], limits: Limits) -> Row:
    if "consent" in found or ("request" in found and "response" in found):
        return _gateway(found, limits)
    if "custom_id" in found:
        return _batch(found, requests, limits)
    if isinstance(found.get("choices"), list):
        return _exchange(found.get("request", found), found, limits)
    return _written(found, limits)


def _written(found: Mapping[str, Any], limits: Limits) -> Row:
    """A row that was written for training."""
    if "chosen" in found and "rejected" in found:
        return _preference(found, limits)
    if "messages" in found:
        return Row(conversation=messages.conversation(found["messages"], limits, tools=found.get("tools")))
    if "prompt" in found and "completion" in found:
        whole = [*_asked(found["prompt"]), *_answered(found["completion"])]
        return Row(conversation=messages.conversation(whole, limits, tools=found.get("tools")))
    if "conversations" in found:
        return _sharegpt(found, limits)
    raise Unusable(
        reason="unknown-shape",
        detail="none of messages, prompt and completion, chosen and rejected, conversations, choices, custom_id, consent",
    )


def _gateway(found: Mapping[str, Any], limits: Limits) -> Row:
    if found.get("consent") is not True:
        raise Unusable(reason="no-consent", detail="consent is not true")
    if not isinstance(found.get("key"), str) or not found["key"]:
        raise Unusable(reason="no-owner", detail="key is missing, so a request to delete could not find the row")
    if _time(found.get("time")) is None:
        raise Unusable(reason="bad-time", detail="time is missing, so the age of the row is unknown")
    return _exchange(found.get("request"), found.get("response"), limits)


def _batch(found: Mapping[str, Any], requests: Mapping[str, Mapping[str, Any] | None], limits: Limits) -> Row:
    response = found.get("response")
    if found.get("error") or not isinstance(response, dict) or response.get("status_code") != 200:
        raise Unusable(reason="failed-request", detail="the request of the batch failed")
    name = str(found["custom_id"])
    if name not in requests:
        raise Unusable(reason="no-question", detail="the input of the batch has no request with this custom_id")
    if (asked := requests[name]) is None:
        raise Unusable(reason="no-question", detail="the input of the batch has several requests with this custom_id")
    return _exchange(asked.get("body"), response.get("body"), limits)


def _exchange(request: Any, response: Any, limits: Limits) -> Row:
    """A request of the chat API and its answer."""
    if not isinstance(request, dict) or not isinstance(request.get("messages"), list):
        raise Unusable(reason="no-question", detail="the messages of the request are not there")
    choices = response.get("choices") if isinstance(response, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Unusable(reason="no-answer", detail="the response has no choices")
    if (why := _CUT.get(str(choices[0].get("finish_reason")))) is not None:
        raise Unusable(reason="cut", detail=f"the answer {why}")
    made = messages.conversation([*request["messages"], choices[0].get("message")], limits, tools=request.get("tools"))
    return Row(
        conversation=made,
        owners=_named(request),
        time=_time(response.get("created")),
    )


def _preference(found: Mapping[str, Any], limits: Limits) -> Row:
    chosen, rejected = (_answered(found[name]) for name in ("chosen", "rejected"))
    asked = _asked(found["prompt"]) if "prompt" in found else chosen[:-1]
    if "prompt" not in found and asked != rejected[:-1]:
        raise Unusable(reason="bad-messages", detail="chosen and rejected answer different conversations")
    last = (chosen[-1:], rejected[-1:])
    if not all(last):
        raise Unusable(reason="empty", detail="chosen or rejected is empty")
    return Row(conversation=messages.conversation([*asked, *last[0]], limits, tools=found.get("tools"), rejected=last[1][0]))


def _sharegpt(found: Mapping[str, Any], limits: Limits) -> Row:
    turns = found["conversations"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise Unusable(reason="bad-messages", detail="conversations is not a list of objects")
    whole = [{"role": _SPEAKERS.get(str(turn.get("from"))), "content": turn.get("value")} for turn in turns]
    if isinstance(found.get("system"), str) and found["system"]:
        whole.insert(0, {"role": "system", "content": found["system"]})
    return Row(conversation=messages.conversation(whole, limits))


def _asked(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [{"role": "user", "content": value}]


def _answered(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [{"role": "assistant", "content": value}]


def _owners(names: list[Any]) -> frozenset[str]:
    return frozenset(each for name in names if isinstance(name, str | int) for each in pseudonyms(str(name)))


def _time(value: Any) -> datetime | None:
    """RFC 3339 text, or seconds since 1970.

    Raises:
        Unusable: It is neither.
    """
    if value is None:
        return None
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str) and (made := datetime.fromisoformat(value)).tzinfo is not None:
            return made.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise Unusable(reason="bad-time", detail="time is neither RFC 3339 with a time zone nor seconds since 1970")
