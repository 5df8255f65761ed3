"""A setting that does not go together with others."""

from __future__ import annotations

from collections.abc import Sequence
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


def together(found: Sequence[Refused]) -> tuple[str, str, str]:
    """Names, reasons and remedies of several settings, as parts of one error.

    Args:
        found: At least one.
    """
    return (
        " and ".join(each.name for each in found),
        "; ".join(f"{each.name}: {each.why}" for each in found),
        "; ".join(f"{each.name}: {each.remedy}" for each in found),
    )
