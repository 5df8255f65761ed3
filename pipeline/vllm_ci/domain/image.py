"""Reference to an image, and its layers."""

from __future__ import annotations

import re
from dataclasses import dataclass

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class ImageRef:
    """Repository, digest and tags of an image; the digest is the identity.

    Attributes:
        repository: Name without tag or digest (``registry.example/team/name`` or just ``name``).
        digest: ``sha256:`` and 64 hex digits, of the manifest (or of the index, for several platforms).
        tags: Tags that point at the digest, the commit's first.
    """

    repository: str
    digest: str
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _DIGEST.fullmatch(self.digest):
            raise ValueError(f"not a sha256 digest: {self.digest!r}")

    @property
    def reference(self) -> str:
        """``repository@digest``: the only form that always names the same image."""
        return f"{self.repository}@{self.digest}"


@dataclass(frozen=True, kw_only=True)
class ImageLayer:
    """A layer of an image, as it is stored in a registry.

    Attributes:
        tier: What it holds (``base``, ``wheels`` ...).
        digest: ``sha256:`` and 64 hex digits, of the compressed bytes.
        size_bytes: Size of these.
        platform: ``linux/amd64``; empty if the image has one platform and it is not known.
    """

    tier: str
    digest: str
    size_bytes: int
    platform: str = ""
