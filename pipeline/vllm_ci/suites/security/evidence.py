"""What a response proves: a status alone proves nothing.

A server that answers 200 may have sent a page for browsers, an error, or nothing; only content that a route is there for proves
that a request was served.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from vllm_ci.suites.raw import RawResponse

_SAMPLE = re.compile(r"^[a-zA-Z_:][a-zA-Z0-9_:]*(\{[^}]*\})? [-+0-9.eEINnaf]+", re.MULTILINE)
_PAGES = ("swagger-ui", "redoc", "rapidoc")
_EMPTY: tuple[Any, ...] = (None, "", [], {})
_MAY_VARY = re.compile(r"[0-9a-f]{8,}|\\u[0-9a-f]{4}|[^a-zA-Z{}\[\]\":,]+")


def served(answer: RawResponse, shows: tuple[str, ...]) -> bool:
    """Whether a response holds content of a route, in one piece or as a stream.

    Args:
        answer: The response.
        shows: Fields, one of which such content has; ``#metrics`` and ``#page`` stand for metrics in the text format of
            Prometheus and for the pages that list routes.
    """
    if answer.status not in (200, 201, 202, 203, 206) or not answer.body:
        return False
    if "#metrics" in shows and "html" not in answer.kind and "json" not in answer.kind:
        return bool(_SAMPLE.search(answer.text))
    if "#page" in shows and "html" in answer.kind:
        return any(mark in answer.text for mark in _PAGES)
    return any(not failed(each) and any(each.get(name) not in _EMPTY for name in shows) for each in documents(answer))


def content(answer: RawResponse) -> bool:
    """Whether a response of a route about which nothing is known holds data: JSON that is no error, or plain text."""
    if answer.status != 200 or not answer.body.strip():
        return False
    if answer.kind == "text/plain":
        return True
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        return False
    return found not in _EMPTY and not (isinstance(found, dict) and failed(found))


def failed(document: dict[str, Any]) -> bool:
    """Whether a JSON object is an error."""
    return bool(document.get("error")) or document.get("object") == "error" or document.get("type") == "error"


def documents(answer: RawResponse) -> Iterator[dict[str, Any]]:
    """JSON objects of a body, or of the events of a stream."""
    texts = [answer.text]
    if not answer.text.lstrip().startswith(("{", "[")):
        texts = [line.partition(":")[2] for line in re.split(r"\r\n|\r|\n", answer.text) if line.startswith("data:")]
    for text in texts:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            continue
        yield from (each for each in (found if isinstance(found, list) else [found]) if isinstance(each, dict))


def alike(one: RawResponse, other: RawResponse, *words: str) -> bool:
    """Whether two responses are the same kind of response; numbers, ids and these words may differ in their bodies."""
    return (one.status, one.kind) == (other.status, other.kind) and _shape(one, words) == _shape(other, words)


def _shape(answer: RawResponse, words: tuple[str, ...]) -> str:
    text = answer.text
    for word in sorted(set(words), key=len, reverse=True):
        text = text.replace(word, "") if word else text
    return _MAY_VARY.sub("", text)
