"""The files that differ between a commit and the branch it will be merged into."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Changes:
    """The files that changed.

    Attributes:
        files: Paths relative to the folder of the configuration, with ``../`` in front of files outside it. A renamed file is
            listed under its old and its new name; deleted files are listed too.
        base: What they were compared with, for display (``main (1a2b3c4d5e6f)``).
        unknown: Why the changes could not be determined; ``files`` is empty then.
    """

    files: tuple[str, ...] = ()
    base: str = ""
    unknown: str = ""
