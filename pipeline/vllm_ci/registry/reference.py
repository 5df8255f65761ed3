"""Image names, by the grammar of the OCI distribution specification (section "Pulling manifests")."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vllm_ci.registry.errors import ImageNameError

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HOST = re.compile(r"(?:[a-zA-Z0-9.-]+|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")


def is_digest(text: str) -> bool:
    """Whether ``text`` is ``sha256:`` and 64 lower-case hex digits, the only algorithm spoken here."""
    return _DIGEST.fullmatch(text) is not None


def check_tag(tag: str) -> str:
    """``tag`` itself.

    Raises:
        ImageNameError: It is not one (128 characters at most, letters, digits, ``_``, ``.``, ``-``).
    """
    if not _TAG.fullmatch(tag):
        raise ImageNameError(f"not a tag: {tag!r}", remedy="use at most 128 letters, digits, '_', '.' and '-'")
    return tag


@dataclass(frozen=True, kw_only=True)
class Reference:
    """``host/path:tag@digest``.

    Attributes:
        host: ``name[:port]`` of the registry.
        path: Name of the repository within it.
        tag: Empty when none was given.
        digest: Empty when none was given; where both are given the digest decides.
    """

    host: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        """``host/path``."""
        return f"{self.host}/{self.path}"

    def __str__(self) -> str:
        return self.repository + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def split_name(text: str) -> tuple[str, str, str]:
    """Repository, tag and digest of an image name; the repository is not looked at, tag and digest may be empty.

    Raises:
        ImageNameError: Tag or digest is malformed.
    """
    name, _, digest = text.partition("@")
    tag = ""
    head, colon, tail = name.rpartition(":")
    if colon and "/" not in tail:
        name, tag = head, check_tag(tail)
    if digest and not is_digest(digest):
        raise ImageNameError(f"not a digest: {digest!r}", remedy="a digest is sha256: and 64 hex digits")
    return name, tag, digest


def parse(text: str) -> Reference:
    """``text`` as a reference to a registry.

    Raises:
        ImageNameError: It has no registry host, or does not follow the grammar.
    """
    name, tag, digest = split_name(text)
    host, _, path = name.partition("/")
    if not path or not (host == "localhost" or "." in host or ":" in host):
        raise ImageNameError(
            f"{text!r} does not name a registry",
            why="there is no default registry",
            remedy="write the full name, for example registry.example.com/team/name",
        )
    if not _HOST.fullmatch(host) or not _PATH.fullmatch(path):
        raise ImageNameError(
            f"not an image name: {text!r}",
            remedy="a name is host[:port]/path in lower-case letters, digits, '.', '_', '-' and '/'",
        )
    return Reference(host=host, path=path, tag=tag, digest=digest)
