"""Where a request leaves traces in responses and logs, and how a line end is written there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from vllm_ci.suites.raw import RawResponse
from vllm_ci.suites.security.door import Door
from vllm_ci.suites.security.ways import CHAT, COMPLETIONS

LINE_ENDS: Mapping[str, str] = {
    "encoded": "%0d%0a",
    "encoded-line-feed": "%0a",
    "encoded-carriage-return": "%0d",
    "encoded-twice": "%250d%250a",
    "escaped": "\\r\\n",
    "escaped-unicode": "\\u000d\\u000a",
    "entity": "&#13;&#10;",
    "raw": "\r\n",
    "raw-line-feed": "\n",
    "raw-carriage-return": "\r",
    "folded": "\r\n ",
    "unicode-truncated": "\u560d\u560a",
    "unicode-separator": "\u2028",
    "unicode-next-line": "\u0085",
    "vertical-tab": "\x0b",
}
"""A line end, raw and as something decodes it; a character above 255 becomes one where only its low byte is kept."""

HEADERS = (
    *("X-Request-Id", "X-Correlation-Id", "Traceparent", "X-Session-Id", "Origin", "User-Agent", "Accept", "Accept-Language"),
    *(
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "Host",
        "Referer",
        "OpenAI-Organization",
        "X-Data-Parallel-Rank",
    ),
)
FIELDS = ("request_id", "model", "user", "metadata", "unknown-field", "role", "service_tier", "cache_salt", "stop")
PLACES = (*(f"header:{name}" for name in HEADERS), *(f"field:{name}" for name in FIELDS), "path", "query", "method")
_IN_HEADERS = ("raw-carriage-return", "folded", "vertical-tab")
_RAW = ("raw", "raw-line-feed", *_IN_HEADERS)
_WIDE = ("unicode-truncated", "unicode-separator", "unicode-next-line")
_ENCODED = tuple(name for name in LINE_ENDS if name not in (*_RAW, *_WIDE))

Parts = Sequence[tuple[str, bool]]
"""Text, and whether each part of it is a line end, which is sent as it is."""


def woven(ends: Iterable[str], line: Callable[[str], str], *, last: str = "") -> Parts:
    """Text in which each of these line ends begins a line of its own, so that one request tries them all.

    Args:
        ends: Names of line ends.
        line: Makes the line for one of them.
        last: What follows after each line, on another one; without it lines follow each other.
    """
    found: list[tuple[str, bool]] = [("id", False)]
    for end in ends:
        found += [(LINE_ENDS[end], True), (line(end), False)]
        found += [(LINE_ENDS[end], True), (last, False)] if last else []
    return found


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """Writes text with line ends into one place of a request.

    Attributes:
        door: The server.
        place: One of :data:`PLACES`.
        ask: Which request carries it: ``models``, ``chat``, ``stream`` or ``completions``.
    """

    door: Door
    place: str
    ask: str = "models"

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Line ends that are tried in one request each: a server may refuse a raw one, and would hide the others.

        A raw line end in a header only begins another header of the request, so a folded line (RFC 9112, section 5.2) takes its
        place. Where text is generated for each request, the rare ones are left out.
        """
        if self.place.startswith("field:"):
            return (_ENCODED, _WIDE, _RAW)
        raw = tuple((end,) for end in _IN_HEADERS) if self.place.startswith("header:") and self.ask == "models" else ()
        return (_ENCODED, _WIDE, *raw)

    def sent(self, parts: Parts) -> RawResponse:
        """The response to a request that holds this text."""
        kind, _, name = self.place.partition(":")
        text = "".join(part for part, _ in parts)
        if kind == "field":
            return self._posted(self._with_field(name, text))
        if kind == "header":
            return self._posted(self._plain(), [(name, text if name not in ("Origin", "Referer") else f"https://{text}")])
        target = "".join(part if end else quote(part, safe=":-_.") for part, end in parts)
        if kind == "path":
            return self.door.send(f"/v1/models/{target}", headers=self.door.with_key)
        if kind == "query":
            return self.door.send(f"/v1/models?x={target}", headers=self.door.with_key)
        return self.door.send("/v1/models", method=target.replace(" ", "%20"), headers=self.door.with_key)

    def _posted(self, fields: Mapping[str, Any], headers: list[tuple[str, str]] | None = None) -> RawResponse:
        extra = [*(headers or []), *self.door.with_key]
        if self.ask == "models" and not self.place.startswith("field:"):
            return self.door.send("/v1/models", headers=extra)
        path = CHAT if self.door.server.can("chat") else COMPLETIONS
        body = json.dumps(fields).encode()
        return self.door.send(path, method="POST", headers=[*extra, ("Content-Type", "application/json")], body=body)

    def _plain(self) -> dict[str, Any]:
        said: dict[str, Any] = {"prompt": "x"}
        if self.door.server.can("chat"):
            said = {"messages": [{"role": "user", "content": "x"}]}
        streamed = {"stream": True} if self.ask == "stream" else {}
        return {"model": self.door.server.model, "max_tokens": 1, **said, **streamed}

    def _with_field(self, name: str, text: str) -> dict[str, Any]:
        if name == "metadata":
            return {**self._plain(), "metadata": {"note": text, text: "x"}}
        if name == "unknown-field":
            return {**self._plain(), text: 1}
        if name == "role":
            return {**self._plain(), "messages": [{"role": text, "content": "x"}]}
        return {**self._plain(), name: text}
