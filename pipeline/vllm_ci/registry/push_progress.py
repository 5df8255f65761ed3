"""How far a push is, told as the progress of a step."""

from __future__ import annotations

import threading
import time

from vllm_ci.domain.events import Emit, Progress

EVERY_S = 0.2


class PushProgress:
    """Counts the bytes that are sent, from several threads, and tells of them a few times a second.

    Args:
        emit: Told how far it is.
        step: Name of the step that it is about.
        verb: What was done with the bytes.
    """

    def __init__(self, emit: Emit, step: str, *, verb: str = "sent") -> None:
        self._emit, self._step, self._verb = emit, step, verb
        self._lock = threading.Lock()
        self._bytes = 0
        self._told = 0.0

    def __call__(self, digest: str, size_bytes: int) -> None:  # noqa: ARG002 - an OnBytes
        """Some bytes of a blob were sent."""
        with self._lock:
            self._bytes += size_bytes
            now = time.monotonic()
            if now - self._told < EVERY_S:
                return
            self._told = now
            self._emit(Progress(step=self._step, detail=f"{self._bytes / 1e6:,.1f} MB {self._verb}"))
