"""Interprets an exchange as a streamed completion, for chat and text completions.

Invalid streams do not raise errors; their defects are listed in :attr:`Stream.problems`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from vllm_ci.loadgen import sse
from vllm_ci.loadgen.chunk import DONE, Chunk, Json, json_object, number
from vllm_ci.loadgen.exchange import Exchange
from vllm_ci.loadgen.metrics import Metrics, measure
from vllm_ci.loadgen.tally import Answer, Tally


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
    def problems(self) -> tuple[str, ...]:
        """Why the stream is not successful and complete; empty if it is."""
        found = []
        if self.exchange.failure:
            found.append(str(self.exchange.failure))
        if self.exchange.stopped:
            found.append("the client disconnected")
        if not self._succeeded:
            found.append(f"status {self.exchange.status}")
        if self.error is not None:
            found.append(f"error: {str(self.error)[:300]}")
        if self.malformed:
            found.append(f"{len(self.malformed)} events that are not JSON objects: {self.malformed[0][:100]!r}")
        if not self.answers:
            found.append("no choices")
        found += [f"no finish reason for choice {answer.index}" for answer in self.answers if not answer.finish_reasons]
        if self.usage is None:
            found.append("no usage")
        if not self.done:
            found.append("does not end with one [DONE]")
        return tuple(found)

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
