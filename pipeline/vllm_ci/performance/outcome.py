"""How a request to an overloaded server ended: served, refused in a way that a client can act on, or lost."""

from __future__ import annotations

import enum
import errno
import os
from email.utils import parsedate_to_datetime

from vllm_ci.loadgen.exchange import Exchange, FailureKind
from vllm_ci.loadgen.stream import Stream
from vllm_ci.performance.sample import problems_of

_REFUSALS = (429, 503)
_TIMEOUTS = (FailureKind.FIRST_BYTE_TIMEOUT, FailureKind.BETWEEN_BYTES_TIMEOUT, FailureKind.TOTAL_TIMEOUT)
_CLIENT = tuple(os.strerror(number) for number in (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL))
"""Errors of connecting that are limits of this machine: open files, and local ports."""


class Outcome(enum.StrEnum):
    """How a request ended, in the words of the report."""

    SERVED = "served"
    REFUSED = "refused with Retry-After"
    REFUSED_BARE = "refused without Retry-After"
    SERVER_ERROR = "server error"
    REJECTED = "other status"
    UNCONNECTED = "no connection"
    RESET = "connection reset"
    TIMEOUT = "timeout"
    BROKEN = "broken stream"
    CLIENT = "limit of the client"

    @property
    def failed(self) -> bool:
        """Neither an answer nor a refusal."""
        return self not in (Outcome.SERVED, Outcome.REFUSED, Outcome.REFUSED_BARE)


def outcome_of(stream: Stream) -> Outcome:
    """How a request ended. Status 429 and 503 are refusals (RFC 6585, 4; RFC 9110, 15.6.4)."""
    status = stream.exchange.status
    if not status:
        return _unanswered(stream.exchange)
    if status in _REFUSALS:
        return Outcome.REFUSED if retry_after(stream.exchange.headers.get("retry-after", "")) else Outcome.REFUSED_BARE
    if status >= 300:
        return Outcome.SERVER_ERROR if status >= 500 else Outcome.REJECTED
    if not problems_of(stream):
        return Outcome.SERVED
    failure = stream.exchange.failure
    return Outcome.TIMEOUT if failure is not None and failure.kind in _TIMEOUTS else Outcome.BROKEN


def _unanswered(exchange: Exchange) -> Outcome:
    failure = exchange.failure
    if failure is None or failure.kind in (FailureKind.DISCONNECTED, FailureKind.PROTOCOL):
        return Outcome.RESET
    if failure.kind in _TIMEOUTS:
        return Outcome.TIMEOUT
    return Outcome.CLIENT if any(text in failure.message for text in _CLIENT) else Outcome.UNCONNECTED


def retry_after(value: str) -> bool:
    """Whether a value of the header Retry-After is valid: seconds, or a date (RFC 9110, 10.2.3)."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        return True
    try:
        parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return False
    return True


def right_tokens(stream: Stream, *, asked_tokens: int, exactly: bool) -> bool:
    """Whether a served answer has the tokens that it says, and that were requested; true where the server counts none.

    Args:
        stream: The answer.
        asked_tokens: ``max_tokens`` of the request.
        exactly: The server was asked to ignore the end of the text, so that no answer is shorter.
    """
    counted = stream.metrics.output_tokens
    if counted is None:
        return True
    if counted and not stream.tally.token_chunks_ns:
        return False
    return counted == asked_tokens if exactly else counted <= asked_tokens
