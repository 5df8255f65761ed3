"""How often and how patiently something is tried again."""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

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

    def wait(self, failures: int, asked: str = "") -> None:
        """Wait after the ``failures``-th failure; ``asked`` is the answer's ``Retry-After`` header."""
        self.sleep(self.delay_s(failures, asked))

    def delay_s(self, failures: int, asked: str = "") -> float:
        """Seconds to wait: what the server asked for, else the backoff; never above the ceiling."""
        told = retry_after_s(asked)
        if told is not None:
            return min(told, self.ceiling_s)
        backoff = self.base_s * 2.0 ** (failures - 1)
        return float(min(backoff, self.ceiling_s)) * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing


def retry_after_s(header: str) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, as a number or a date (RFC 9110, 10.2.3); ``None`` for none."""
    if not header:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        moment = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())
