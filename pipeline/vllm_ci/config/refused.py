"""A setting that does not go together with others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_ci.system.yaml_file import Place


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A setting that would have no effect.

    Attributes:
        key: Its place; that of a setting of a deployment begins with ``deploy``.
        why: Why not.
        remedy: What to do.
    """

    key: Place
    why: str
    remedy: str

    @property
    def name(self) -> str:
        """The key as people write it."""
        return ".".join(map(str, self.key))
