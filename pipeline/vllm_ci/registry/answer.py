"""An answer that was read in full, and the server's own words in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from vllm_ci.domain.errors import RegistryError

# Answers that are read in full are small: manifests (registries take 4 MiB), lists, tokens, errors.
_MAX_BYTES = 32 << 20


@dataclass(frozen=True, kw_only=True)
class RegistryAnswer:
    """An answer that was read in full.

    Attributes:
        status: HTTP status.
        headers: Names in any case.
        url: Of the request that was answered, after redirects.
        content: The body.
    """

    status: int
    headers: httpx.Headers
    url: str
    content: bytes = b""

    def json(self) -> Any:
        """The body as JSON; ``None`` when it is not JSON."""
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            return None

    @property
    def host(self) -> str:
        """Who answered."""
        return urlsplit(self.url).netloc

    @property
    def code(self) -> str:
        """Code of the first error in the body (distribution specification, "Error Codes"); empty when it has none."""
        return next((code for code, _ in self._errors()), "")

    @property
    def told(self) -> str:
        """Status and the server's own words, on one line."""
        words = "; ".join(": ".join(filter(None, each)) for each in self._errors() if any(each)) or self._text()
        return f"{self.status} {words}".rstrip()

    def _errors(self) -> list[tuple[str, str]]:
        value = self.json()
        errors = value.get("errors") if isinstance(value, dict) else None
        if isinstance(value, dict) and not isinstance(errors, list):
            # Token servers (RFC 6749, section 5.2) and some proxies.
            errors = [{"code": value.get("error"), "message": value.get("error_description") or value.get("message")}]
        found = [each for each in errors or () if isinstance(each, dict)]
        return [(_line(each.get("code"), 80), _line(each.get("message"), 300)) for each in found[:3]]

    def _text(self) -> str:
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return _line(self.content[:300].decode("utf-8", "replace"), 300) if kind == "text/plain" else ""


def read(response: httpx.Response) -> RegistryAnswer:
    """The whole answer; the body of a refusal that breaks off does not hide its status.

    Raises:
        RegistryError: It is larger than anything that is read in full.
    """
    content = bytearray()
    try:
        for piece in response.iter_bytes():
            content += piece
            if len(content) > _MAX_BYTES:
                raise RegistryError(
                    f"{response.url.netloc.decode()} sent an answer of more than {_MAX_BYTES >> 20} MiB",
                    why="a manifest, a list or a token is never that large",
                    remedy="check the registry's address",
                )
    except httpx.RequestError:
        if response.status_code < 400:
            raise
    return RegistryAnswer(status=response.status_code, headers=response.headers, url=str(response.url), content=bytes(content))


def _line(text: object, most: int) -> str:
    """A server's words, without what a terminal would take for a command."""
    words = "".join(each if each.isprintable() else " " for each in str(text or ""))
    return " ".join(words.split())[:most]
