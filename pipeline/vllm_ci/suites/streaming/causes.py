"""What several streaming cases find for one reason: they fail with the same cause, which the reports show once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from vllm_ci.loadgen.stream import NO_DONE, NO_USAGE, Problem, Stream
from vllm_ci.suites.refusals import RefusedAloneError
from vllm_ci.suites.verdicts import Fault, Inconclusive, NotRun

TIMEOUT = "stream-timeout"
CUT = "stream-incomplete"
# Each of these is a finding of one case of its own; the content of such a stream is known nevertheless.
_TOLERATED = {NO_DONE, NO_USAGE}
# What a rate limit is waited for does not come here: this request is refused while others are served.
_STATUS = "stream-status:"
_REFUSED: Mapping[str, Mapping[str, str]] = {f"{_STATUS}429": RefusedAloneError.cause}


class BrokenStreamError(AssertionError):
    """A stream that had to succeed did not; ``cause`` is the same for all cases that met the same problem."""

    of_client = False  # the last request of the client that asks for whole answers is not the one that failed

    def __init__(self, problem: Problem, message: str) -> None:
        super().__init__(message)
        self.cause = _REFUSED.get(problem.id, {"id": problem.id, "title": problem.title})


class StreamFault(Fault):
    """A fact about streams that several cases may meet; they have the same cause.

    Args:
        cause: ``id`` and ``title`` of the cause, and the ``rule`` that it breaks.
        message: What this case found.
    """

    def __init__(self, cause: Mapping[str, str], message: str) -> None:
        super().__init__(message)
        self.cause = dict(cause)


COUNTED: Mapping[str, str] = {
    "id": "stream-usage:count",
    "title": "usage of a stream counts other tokens than those that came, or than without streaming",
    "rule": "OpenAI API reference, stream_options.include_usage: usage is that of the entire request",
}
USAGE_PLACE: Mapping[str, str] = {
    "id": "stream-usage:place",
    "title": "usage of a stream is not in one last chunk without choices",
    "rule": "OpenAI API reference, stream_options.include_usage: choices is always an empty array in the usage chunk",
}
CHOICES: Mapping[str, str] = {
    "id": "stream-choices",
    "title": "several choices of a stream cannot be told apart",
    "rule": "OpenAI API reference, chat completion chunk: index of the choice, one finish reason for each",
}

INTERRUPTED: Mapping[str, str] = {
    "id": "stream-interrupted",
    "title": "a stream ends early when other requests come",
    "rule": "OpenAI API reference: an answer ends with a finish reason (llama-cpp-python: --interrupt_requests false)",
}


def holds(cause: Mapping[str, str], *, right: bool, message: str) -> None:
    """Fail with a cause unless something is right.

    Raises:
        StreamFault: It is not.
    """
    if not right:
        raise StreamFault(cause, message)


class SlowServerError(Inconclusive):
    """Concurrent streams do not end in time because the server makes one answer at a time."""

    cause: ClassVar[Mapping[str, str]] = {
        "id": "slow-server",
        "title": "the server is too slow for this many concurrent streams in the time that there is",
    }


class StreamsHangError(NotRun):
    """Streams of this endpoint do not end, so no more are requested."""

    def __init__(self, endpoint: str, streams: int) -> None:
        super().__init__(f"not run: {streams} streams of {endpoint} did not end in time, so no more are requested")
        self.cause = {"id": TIMEOUT, "title": "a stream does not end in time"}


def timed_out(stream: Stream) -> bool:
    """Whether a stream did not end in time."""
    return any(problem.id == TIMEOUT for problem in stream.defects)


def fatal(stream: Stream) -> Problem | None:
    """The first problem that leaves the content of a stream unknown; ``None`` if there is none."""
    return next((problem for problem in stream.defects if problem.id not in _TOLERATED), None)


def cause_of(stream: Stream, prefix: str) -> None:
    """Fail with the problem whose id starts with ``prefix``, if the stream has it; or because there is no stream at all.

    Raises:
        BrokenStreamError: It has it.
    """
    for problem in stream.defects:
        if problem.id.startswith((prefix, _STATUS)):
            raise BrokenStreamError(problem, f"{problem.title}: {stream.describe()}")
