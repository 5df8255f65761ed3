"""Decides whether a request that is refused for being too many is sent again.

While the server refuses everything, it is waited for. If it serves a smallest request each time that one request is refused
again, it does not limit the rate of requests: the refusal is its answer to this one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, ClassVar

from vllm_ci.suites.verdicts import Fault

if TYPE_CHECKING:
    from vllm_ci.suites.traffic import Traffic

_RATE_LIMITED = 429
_UNAVAILABLE = 503
_CONTROL_AFTER_S = 5.0
"""A longer wait than this begins only after a control; a shorter one is cheaper than a control."""
_ROUNDS, _ROUND_S, _LONGEST_S = 5, 1.0, 30.0
"""Refusals beside served controls until an answer stands, and the waits between them. A server that refuses requests at random,
each with probability p, does this to one request with probability (p (1 - p))^5: one in a thousand at worst."""
_KNOWN_ROUNDS, KNOWN_ROUND_S, _KNOWN_LONGEST_S = 3, 0.2, 1.0
"""The same for requests like those whose refusal stood before."""
_OFTEN, _OFTEN_ROUNDS = 10, 2
"""So many refusals that stood are no chance, so that fewer rounds tell."""


class RefusedAloneError(Fault):
    """A request is refused for being too many whenever it is sent, while the server serves others."""

    cause: ClassVar[Mapping[str, str]] = {
        "id": "refused-alone",
        "title": "some requests are refused as too many (429 or 503) whenever they are sent, while others are served",
        "severity": "medium",
        "rule": "RFC 6585, section 4: 429 says that too many requests came in a given time; RFC 9110, section 10.2.3",
    }


class Refusals:
    """The refusals of one request for being too many.

    Args:
        traffic: What it shares with other requests.
        kind: Method and path.
    """

    def __init__(self, traffic: Traffic, kind: str) -> None:
        self._traffic, self._kind = traffic, kind
        self._attempt = 0
        self._rounds = 0
        self._waited_s = 0.0

    def pause_s(self, status: int, retry_after: str | None) -> float | None:
        """Seconds to wait before the request is sent again; ``None`` if the answer stands. May send a control.

        Args:
            status: Status of the answer.
            retry_after: Its ``Retry-After``.

        Raises:
            RateLimitedError: The server refuses everything, for longer than a run waits.
        """
        if not asks_to_wait(status, retry_after):
            return None
        known = self._traffic.is_known(self._kind)
        asked_s = seconds_of(retry_after)
        if self._is_alone(at_once=known or (asked_s or 0.0) > _CONTROL_AFTER_S):
            return self._next_round(asked_s, known=known)
        self._rounds = 0
        pause_s = self._traffic.pause_s(status, retry_after, self._attempt)
        self._attempt += 1
        return pause_s

    def _is_alone(self, *, at_once: bool) -> bool:
        control = self._traffic.control
        return control is not None and (at_once or self._attempt + self._rounds > 0) and control()

    def _next_round(self, asked_s: float | None, *, known: bool) -> float | None:
        rounds, round_s, longest_s = (
            (_KNOWN_ROUNDS, KNOWN_ROUND_S, _KNOWN_LONGEST_S) if known else (_ROUNDS, _ROUND_S, _LONGEST_S)
        )
        if known and sum(self._traffic.alone.values()) >= _OFTEN:
            rounds, longest_s = _OFTEN_ROUNDS, round_s
        self._rounds += 1
        if self._rounds >= rounds:
            self._traffic.stands(self._kind)
            return None
        # What the server asks for is obeyed, as long as that is reasonable for one request.
        wait_s = min(max(asked_s or 0.0, round_s), max(longest_s - self._waited_s, 0.0))
        pause_s = self._traffic.spend(wait_s)
        self._waited_s += pause_s
        return pause_s


def asks_to_wait(status: int, retry_after: str | None) -> bool:
    """Whether an answer says that the request may be sent again later; a 503 does so only with ``Retry-After``."""
    return status == _RATE_LIMITED or (status == _UNAVAILABLE and bool(retry_after))


def seconds_of(retry_after: str | None) -> float | None:
    """Seconds of a ``Retry-After`` header; ``None`` if it is absent or invalid."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    try:
        return float(text) if text.replace(".", "", 1).isdigit() else _until(parsedate_to_datetime(text))
    except (ValueError, TypeError, OverflowError):
        return None


def _until(moment: dt.datetime) -> float:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
    return max((aware - dt.datetime.now(dt.UTC)).total_seconds(), 0.0)
