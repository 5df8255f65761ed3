"""What the suites' clients met beside the answers: reset connections, rate limits, and the last request that was sent.

Shared by all clients of a run, from any thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from vllm_ci.suites.dialect import Dialect
from vllm_ci.suites.refusals import KNOWN_ROUND_S, Refusals, asks_to_wait, seconds_of
from vllm_ci.suites.verdicts import Inconclusive

_FIRST_WAIT_S = 1.0
_LEAST_S = 0.05
_LONGEST_GUESS_S = 8.0
_EXCERPT = 300
_MOST_KINDS = 3
_TOTAL_ALONE_S = 60.0
TOTAL_WAIT_S = 120.0
"""Time that a run spends waiting for rate limits, in all."""


class RateLimitedError(Inconclusive):
    """The server refuses requests for being too many, for longer than a run waits."""

    cause: ClassVar[Mapping[str, str]] = {"id": "rate-limit", "rule": "RFC 6585, section 4; RFC 9110, section 10.2.3"}


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A request, for messages.

    Attributes:
        method: Its method.
        path: Its path.
        size_bytes: Size of its body.
        excerpt: The beginning of its body.
    """

    method: str
    path: str
    size_bytes: int
    excerpt: str

    def __str__(self) -> str:
        body = f" ({self.size_bytes:,} bytes: {self.excerpt})" if self.size_bytes else ""
        return f"{self.method} {self.path}{body}"


class Traffic:
    """Records what happened, and decides how long a rate limit is waited for.

    Args:
        total_wait_s: Time that is spent waiting, in all; concurrent waits count once.
        clock: Seconds of a monotonic clock.
        dialect: Changes that the server asked for.

    Attributes:
        dialect: Changes that the server asked for; all clients send their bodies in it.
        resets: Requests whose kept connection was closed.
        refused: Number of refusals.
        waited_s: Time that was spent waiting for a server that limits everything.
        last: The last request.
        control: Whether the server serves a smallest request now; ``None`` while none is known.
        alone: Number of requests whose refusal stood, because others were served, by method and path.
        alone_s: Time that was spent with these.
    """

    def __init__(
        self,
        *,
        total_wait_s: float = TOTAL_WAIT_S,
        clock: Callable[[], float] = time.monotonic,
        dialect: Dialect | None = None,
    ) -> None:
        self.dialect = dialect or Dialect()
        self.resets: list[str] = []
        self.refused = 0
        self.waited_s = 0.0
        self.last: Sent | None = None
        self.control: Callable[[], bool] | None = None
        self.alone: dict[str, int] = {}
        self.alone_s = 0.0
        self._total_wait_s = total_wait_s
        self._clock = clock
        self._until = 0.0
        self._lock = threading.Lock()

    def spoken(self, path: str, body: bytes) -> bytes:
        """A body as the server wants to have it."""
        return self.dialect.spoken(path, body)

    def sent(self, method: str, path: str, body: bytes = b"") -> Refusals:
        """Remember a request as the last one; returns what decides whether it is sent again."""
        excerpt = body[:_EXCERPT].decode("utf-8", "replace") + ("..." if len(body) > _EXCERPT else "")
        self.last = Sent(method=method, path=path, size_bytes=len(body), excerpt=excerpt)
        return Refusals(self, f"{method} {path.partition('?')[0]}")

    def reset(self, method: str, path: str) -> None:
        """Count a kept connection that the server closed without announcing it, before any byte of an answer."""
        with self._lock:
            self.resets.append(f"{method} {path}")

    def pause_s(self, status: int, retry_after: str | None, attempt: int) -> float | None:
        """Seconds to wait before the request is sent again; ``None`` if the answer is no rate limit.

        ``Retry-After`` is obeyed (RFC 9110, section 10.2.3, seconds or a date); without it, waits double from one second. A 503
        is waited for only if it has this header. Waits grow also if the server asks for very short ones in vain.

        Args:
            status: Status of the answer.
            retry_after: Its ``Retry-After``.
            attempt: How often this request was answered like this before.

        Raises:
            RateLimitedError: The wait would exceed the time for all waits.
        """
        if not asks_to_wait(status, retry_after):
            return None
        asked = seconds_of(retry_after)
        # Also a server that says 0 seconds is not asked again and again without a pause.
        guess_s: float = min((_FIRST_WAIT_S if asked is None else _LEAST_S) * 2 ** min(attempt, 16), _LONGEST_GUESS_S)
        wait_s = max(asked or 0.0, guess_s)
        with self._lock:
            now = self._clock()
            self.refused += 1
            added_s = max(now + wait_s - max(now, self._until), 0.0)
            if self.waited_s + added_s > self._total_wait_s:
                said = f"Retry-After: {retry_after}" if retry_after else "without Retry-After"
                raise RateLimitedError(
                    f"the server limits the rate of requests ({status}, {said}); waited {self.waited_s:.0f} s in all, "
                    f"at most {self._total_wait_s:.0f} s: raise the limit for this key, or test at a quieter time"
                )
            self.waited_s += added_s
            self._until = max(self._until, now + wait_s)
        return wait_s

    def is_known(self, kind: str) -> bool:
        """Whether the refusal of such a request stood before, or that of several other kinds."""
        return kind in self.alone or len(self.alone) >= _MOST_KINDS

    def spend(self, wait_s: float) -> float:
        """Seconds to wait for a request that is refused while others are served, within the time for all of these."""
        with self._lock:
            self.refused += 1
            allowed_s = max(min(wait_s, _TOTAL_ALONE_S - self.alone_s), KNOWN_ROUND_S)
            self.alone_s += allowed_s
        return allowed_s

    def stands(self, kind: str) -> None:
        """Count a request whose refusal stands."""
        with self._lock:
            self.refused += 1
            self.alone[kind] = self.alone.get(kind, 0) + 1

    @property
    def facts(self) -> dict[str, object]:
        """For the report; empty if nothing happened."""
        found: dict[str, object] = {}
        if self.resets:
            found["reset_connections"] = len(self.resets)
        if self.refused:
            found |= {"rate_limited_requests": self.refused, "waited_for_rate_limits_s": round(self.waited_s, 1)}
        if self.alone:
            found["refused_alone"] = dict(self.alone)
        return found
