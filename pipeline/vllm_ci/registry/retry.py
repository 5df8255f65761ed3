"""When a request is tried again, how often, and after which wait: one policy for requests, tokens, uploads and downloads.

Every request that this package makes may be repeated. Reading, deleting and uploading a manifest are idempotent. Beginning an
upload is not, but a begun upload that nobody uses expires in the registry and harms nothing. A chunk or the end of an upload is
never repeated blindly: :class:`~vllm_ci.registry.upload.Upload` first asks how much arrived.
"""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC

# Answers after which trying again can help (RFC 9110, section 15; 429 is RFC 6585).
STATUSES = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Exponential backoff with jitter.

    Attributes:
        attempts: Tries in all.
        base_s: Seconds before the second try; doubled each time.
        ceiling_s: Longest wait, also where a server asks for more.
        sleep: Waits; tests put a recorder here.
    """

    attempts: int = 6
    base_s: float = 0.5
    ceiling_s: float = 60.0
    sleep: Callable[[float], None] = time.sleep

    def delay_s(self, failures: int, asked: str = "") -> float:
        """Seconds to wait: what the server asked for, else the backoff; never above the ceiling."""
        told = retry_after_s(asked)
        if told is not None:
            return min(told, self.ceiling_s)
        backoff = self.base_s * 2.0 ** (failures - 1)
        return float(min(backoff, self.ceiling_s)) * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing


class Failures:
    """Counts failures in a row, and waits between tries.

    Args:
        retry: The policy.
        attempts: Tries in all; the policy's by default.
    """

    def __init__(self, retry: Retry, attempts: int | None = None) -> None:
        self.count = 0
        self._retry = retry
        self._attempts = retry.attempts if attempts is None else attempts

    def again(self, asked: str = "") -> bool:
        """Count one more failure and wait; false, without a wait, when no try is left.

        Args:
            asked: The answer's ``Retry-After`` header.
        """
        self.count += 1
        if self.count >= self._attempts:
            return False
        self._retry.sleep(self._retry.delay_s(self.count, asked))
        return True

    def reset(self) -> None:
        """Something was achieved: later failures are counted from the start."""
        self.count = 0


def retry_after_s(header: str) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, as a number or a date (RFC 9110, 10.2.3); ``None`` for none."""
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:18])
    try:
        moment = email.utils.parsedate_to_datetime(text)
        # "-0000" is read as a time without a zone, which stands for UTC (RFC 5322, 3.3).
        return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, LookupError):
        return None
