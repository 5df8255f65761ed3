"""Where a request leaves traces in responses and logs, and how a line end is written there."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
_RAW = ("raw", "raw-line-feed", "folded")


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

    def sent(self, text: str, end: str) -> RawResponse:
        """The response to a request that holds ``text`` (whose line ends are written as ``end`` says).

        A raw line end in a header only begins another header of the request, so a line feed alone stays out of headers, and a
        folded line (RFC 9112, section 5.2) takes its place.
        """
        kind, _, name = self.place.partition(":")
        if kind == "field":
            return self._posted(self._with_field(name, text))
        if kind == "header":
            header = (name, text if name not in ("Origin", "Referer") else f"https://{text}")
            return self._posted(self._plain(), [header])
        if kind == "path":
            return self.door.send(f"/v1/models/{_in_path(text, end)}", headers=self.door.with_key)
        if kind == "query":
            return self.door.send(f"/v1/models?x={_in_path(text, end)}", headers=self.door.with_key)
        return self.door.send("/v1/models", method=_in_path(text, end).replace(" ", "%20"), headers=self.door.with_key)

    def fits(self, end: str) -> bool:
        """Whether a line end can be written in this place without ending the request line or the header."""
        return self.place.startswith("field:") or end not in _RAW or (end == "folded" and self.place.startswith("header:"))

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


def _in_path(text: str, end: str) -> str:
    """Text in a target: other characters than the line end are encoded where they would end it."""
    written = LINE_ENDS[end]
    return written.join(quote(part, safe=":[]-_.") for part in text.split(written)) if written in text else quote(text)
