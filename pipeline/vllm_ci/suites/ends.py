"""What a suite and the stage that runs it both need to know of the end of a server. Standard library only."""

from __future__ import annotations

import hashlib

DIED = "server-died"
HANGS = "server-hangs"
GONE = "server-gone"
UNREACHABLE = "unreachable"
"""Ids of causes: the case during which the server died or hung, the cases that were not run after it, and the cases that were
not run because the server could not be reached, or cannot be tested, when it was first asked."""
CUT = "cut"
NOT_BEGUN = "not-begun"
"""Ids of causes where the program of the suite was stopped: the case that was running, and those that had not begun."""
_ID_DIGITS = 10


def case_id(name: str) -> str:
    """A short id of a case, for the option ``--vllm-cases``."""
    return hashlib.sha256(name.encode()).hexdigest()[:_ID_DIGITS]
