"""What a server wants to have said in other words: ``max_completion_tokens`` for ``max_tokens``, no ``temperature``.

OpenAI's reasoning models refuse both fields of a chat (API reference: ``max_tokens`` is deprecated in favour of
``max_completion_tokens``, and incompatible with these models), and gateways pass their refusals on. The first contact learns it
from the refusal; from then on all clients of a run change the bodies that they send. Bodies are changed as bytes, because some
are no valid JSON on purpose.
"""

from __future__ import annotations

import re
import threading
from typing import Any

import httpx

_CHAT = "/chat/completions"
_REFUSED = (400, 422)
_OLD, _NEW = "max_tokens", "max_completion_tokens"
_MAX_TOKENS = re.compile(rb'"max_tokens"(?=\s*:)')
_NEWER = re.compile(rb'"max_completion_tokens"\s*:')
# Only valid values: what a server has to refuse is sent as it is.
_NUMBER = rb'"temperature"\s*:\s*(?:2(?:\.0+)?|[01](?:\.\d+)?)(?=\s*[,}])'
_TEMPERATURE = re.compile(rb",\s*" + _NUMBER + rb"|" + _NUMBER + rb"(?:\s*,\s*)?")


class Dialect:
    """Changes that a server asked for, of bodies of chat.

    Attributes:
        newer_limit: ``max_tokens`` is sent as ``max_completion_tokens``.
        no_temperature: ``temperature`` is not sent.
    """

    def __init__(self) -> None:
        self.newer_limit = False
        self.no_temperature = False
        self._lock = threading.Lock()

    @property
    def facts(self) -> dict[str, str]:
        """For the report; empty if nothing is changed."""
        found = {_OLD: f"is refused, so {_NEW} is sent"} if self.newer_limit else {}
        return found | ({"temperature": "is refused, so none is sent"} if self.no_temperature else {})

    def spoken(self, path: str, body: bytes) -> bytes:
        """A body as the server wants to have it."""
        if not self.facts or not path.partition("?")[0].rstrip("/").endswith(_CHAT):
            return body
        if self.newer_limit and not _NEWER.search(body):
            body = _MAX_TOKENS.sub(f'"{_NEW}"'.encode(), body)
        return _TEMPERATURE.sub(b"", body) if self.no_temperature else body

    def learn(self, answer: httpx.Response) -> bool:
        """Learn from the answer to a valid request for a chat; whether it is worth sending again."""
        if answer.status_code not in _REFUSED:
            return False
        said = answer.text
        with self._lock:
            if _NEW in said and not self.newer_limit:
                self.newer_limit = True
                return True
            if _about(answer, "temperature") and not self.no_temperature:
                self.no_temperature = True
                return True
        return False


def learn(http: httpx.Client, model: str, dialect: Dialect, *, timeout: httpx.Timeout | float | None = None) -> None:
    """Ask for a chat until it is not refused for a reason of the dialect; other trouble is for others to judge."""
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1, "temperature": 0}
    options: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
    try:
        while dialect.learn(http.post("/v1/chat/completions", json=body, **options)):
            continue
    except httpx.HTTPError:
        return


def _about(answer: httpx.Response, name: str) -> bool:
    """Whether a refusal is about a field: it names it in ``param`` (OpenAI API reference, errors), or in quotes."""
    try:
        error = answer.json()["error"]
    except (ValueError, LookupError, TypeError):
        error = {}
    named = error.get("param") == name if isinstance(error, dict) else False
    return named or re.search(rf"""['"`]{name}['"`]""", answer.text) is not None
