"""The commit that is built and tested."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SHA = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A commit of the user's repository.

    Attributes:
        sha: 40 lower-case hex digits.
        ref: Full name of the branch or tag that was checked out (``refs/heads/main``, ``refs/tags/v1``); empty when HEAD is
            detached, or when the ref that the CI names does not belong to this commit. Older evidence has short names.
        pull_request: Number of the pull or merge request that the run was for; empty when there was none.
        dirty: The work tree has uncommitted changes (it can be tested, but never published).
        committed_at: Committer time in seconds since the epoch; an image's ``created``.
        source: URL or name of the repository, empty when it has no remote.
    """

    sha: str
    ref: str = ""
    pull_request: str = ""
    dirty: bool = False
    committed_at: int = 0
    source: str = ""

    def __post_init__(self) -> None:
        if not _SHA.fullmatch(self.sha):
            raise ValueError(f"not a 40-digit commit id: {self.sha!r}")

    @property
    def short(self) -> str:
        """The first 12 digits, marked when the tree is dirty."""
        return self.sha[:12] + ("-dirty" if self.dirty else "")
