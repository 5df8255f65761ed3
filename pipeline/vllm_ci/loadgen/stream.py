"""Interprets an exchange as a streamed completion, for chat and text completions.

Invalid streams do not raise errors; their defects are listed in :attr:`Stream.problems`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from vllm_ci.loadgen import sse
from vllm_ci.loadgen.chunk import DONE, Chunk, Json, json_object, number
from vllm_ci.loadgen.exchange import Exchange, FailureKind
from vllm_ci.loadgen.metrics import Metrics, measure
from vllm_ci.loadgen.tally import Answer, Tally

_BROKEN = ("stream-incomplete:connection", "the connection ends before the stream is complete")
_INVALID = ("stream-invalid-http", "a stream is not valid HTTP (RFC 9112)")
_UNCONNECTED = ("stream-no-connection", "the server does not accept connections")
_KINDS = {
    FailureKind.PROTOCOL: _INVALID,
    FailureKind.CONNECT: _UNCONNECTED,
    FailureKind.CONNECT_TIMEOUT: _UNCONNECTED,
}
NO_USAGE = "stream-usage:none"
NO_DONE = "stream-incomplete:no-done"
_TIMEOUTS = {FailureKind.FIRST_BYTE_TIMEOUT, FailureKind.BETWEEN_BYTES_TIMEOUT, FailureKind.TOTAL_TIMEOUT}


class Problem(NamedTuple):
    """Why a stream is not successful and complete.

    Attributes:
        id: Stable id of the kind of problem, the same for every stream that has it.
        title: The kind of problem, in words.
        text: This problem, with figures.
    """

    id: str
    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A streamed completion, parsed on first access.

    Attributes:
        exchange: The recorded exchange.
    """

    exchange: Exchange

    @cached_property
    def events(self) -> tuple[sse.Event, ...]:
        """Server-sent events of a 2xx response in order of arrival."""
        return sse.decode(self.exchange.pieces()) if self._succeeded else ()

    @cached_property
    def chunks(self) -> tuple[Chunk, ...]:
        """Events that are JSON objects, including error objects."""
        bodies = ((event.at_ns, json_object(event.data)) for event in self.events if event.data != DONE)
        return tuple(Chunk(at_ns, body) for at_ns, body in bodies if body is not None)

    @cached_property
    def tally(self) -> Tally:
        """Summary of the events, computed without keeping them."""
        return Tally.of(sse.iterate(self.exchange.pieces()) if self._succeeded else ())

    @property
    def _succeeded(self) -> bool:
        return 200 <= self.exchange.status < 300

    @property
    def malformed(self) -> tuple[str, ...]:
        """Data of events that are neither a JSON object nor ``[DONE]``."""
        return tuple(self.tally.malformed)

    @property
    def done(self) -> bool:
        """The last event is ``[DONE]`` and there is only one."""
        return self.tally.done

    @property
    def error(self) -> object:
        """The error object in the stream, or the body of a response that is not 2xx; ``None`` without an error."""
        return self.exchange.text if self.exchange.status >= 300 else self.tally.error

    @property
    def usage(self) -> Json | None:
        """The last usage sent."""
        return self.tally.usage

    @cached_property
    def answers(self) -> tuple[Answer, ...]:
        """All choices, by index."""
        return self.tally.answers

    @property
    def text(self) -> str:
        """Text of the first choice."""
        return self.answers[0].text if self.answers else ""

    @property
    def token_ids(self) -> tuple[int, ...] | None:
        """Token ids of the first choice, if the server sends them."""
        return self.answers[0].token_ids if self.answers else None

    @property
    def finish_reason(self) -> str | None:
        """Finish reason of the first choice."""
        return self.answers[0].finish_reasons[0] if self.answers and self.answers[0].finish_reasons else None

    @cached_property
    def defects(self) -> tuple[Problem, ...]:
        """Why the stream is not successful and complete, the most important first; empty if it is."""
        return (*self._of_the_exchange(), *self._of_the_content())

    def _of_the_exchange(self) -> list[Problem]:
        found = []
        if failure := self.exchange.failure:
            timeout = failure.kind in _TIMEOUTS
            kind, title = _KINDS.get(failure.kind, ("stream-timeout", "a stream does not end in time") if timeout else _BROKEN)
            found.append(Problem(kind, title, str(failure)))
        if self.exchange.stopped:
            found.append(Problem("stream-left", "the client disconnected", "the client disconnected"))
        if not self._succeeded and self.exchange.status:
            status = f"status {self.exchange.status}"
            found.append(Problem(f"stream-{status.replace(' ', ':')}", f"streams are answered with {status}", status))
        if self.error is not None:
            found.append(Problem("stream-error-object", "a stream contains an error", f"error: {str(self.error)[:300]}"))
        return found

    def _of_the_content(self) -> list[Problem]:
        found = []
        if self.malformed:
            text = f"{len(self.malformed)} events that are not JSON objects: {self.malformed[0][:100]!r}"
            found.append(Problem("stream-malformed", "events of a stream are not JSON objects", text))
        if not self.answers:
            found.append(Problem("stream-incomplete:no-choices", "a stream has no choices", "no choices"))
        for answer in self.answers:
            if not answer.finish_reasons:
                text = f"no finish reason for choice {answer.index}"
                found.append(Problem("stream-incomplete:no-finish-reason", "a stream ends without a finish reason", text))
        if self.usage is None:
            found.append(Problem(NO_USAGE, "a stream has no usage", "no usage"))
        if not self.done:
            found.append(Problem(NO_DONE, "a stream does not end with one [DONE]", "does not end with one [DONE]"))
        return found

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the stream is not successful and complete, as text; empty if it is."""
        return tuple(problem.text for problem in self.defects)

    @property
    def complete(self) -> bool:
        """Whether there is a finish reason for every choice, usage, ``[DONE]`` at the end, and no error."""
        return not self.problems

    @cached_property
    def metrics(self) -> Metrics:
        """Its metrics; see :class:`~vllm_ci.loadgen.metrics.Metrics` for the formulas."""
        return measure(
            sent_ns=self.exchange.sent_ns,
            token_chunks_ns=self.tally.token_chunks_ns,
            last_event_ns=self.tally.last_event_ns,
            output_tokens=number(self.usage, "completion_tokens"),
            prompt_tokens=number(self.usage, "prompt_tokens"),
            choices=len(self.answers),
        )

    def describe(self) -> str:
        """One line for assertion messages."""
        reasons = "; ".join(self.problems) or "complete"
        return f"{self.exchange.method} {self.exchange.path} streamed {self.tally.events} events: {reasons}"
