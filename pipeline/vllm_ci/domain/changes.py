"""What differs between a commit and the branch that it is to be merged into."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Files that changed.

    Attributes:
        files: Their paths relative to the folder of the configuration, ``../`` in front of those outside; old and new name of a
            renamed file, deleted ones too.
        base: What they were compared with, for people (``main (1a2b3c4d5e6f)``).
        unknown: Why it could not be found out; then ``files`` says nothing.
    """

    files: tuple[str, ...] = ()
    base: str = ""
    unknown: str = ""
