"""What a suite and the stage that runs it both need to know of the end of a server. Standard library only."""

from __future__ import annotations

import hashlib

DIED = "server-died"
HANGS = "server-hangs"
GONE = "server-gone"
"""Ids of causes: the case during which the server died or hung, and the cases that were not run after it."""
_ID_DIGITS = 10


def case_id(name: str) -> str:
    """A short id of a case, for the option ``--vllm-cases``."""
    return hashlib.sha256(name.encode()).hexdigest()[:_ID_DIGITS]
