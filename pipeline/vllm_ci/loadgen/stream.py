"""An exchange seen as a streamed completion: chunks of the OpenAI wire format, for chat and for text completions.

Nothing here refuses: what a server sent wrong is kept and named in :attr:`Stream.problems`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import pydantic_core

from vllm_ci.loadgen import sse
from vllm_ci.loadgen.exchange import Exchange
from vllm_ci.loadgen.metrics import Metrics, measure

Json = Mapping[str, object]
_DONE = "[DONE]"


def _json(text: str) -> object:
    """JSON of ``text``; pydantic's parser takes half the time, the standard library's is more lenient (lone surrogates)."""
    try:
        return pydantic_core.from_json(text)
    except ValueError:
        return json.loads(text)


class Chunk(NamedTuple):
    """One JSON object of the stream and when it arrived."""

    at_ns: int
    body: Json

    @property
    def choices(self) -> Sequence[Json]:
        """Its choices; none in a usage chunk."""
        found = self.body.get("choices")
        return [choice for choice in found if isinstance(choice, Mapping)] if isinstance(found, list) else []

    @property
    def usage(self) -> Json | None:
        """Its usage object; ``null`` and absent are the same."""
        found = self.body.get("usage")
        return found if isinstance(found, Mapping) else None

    def counted(self, name: str) -> int | None:
        """A number of its usage (``completion_tokens``), ``None`` when it has none."""
        found = (self.usage or {}).get(name)
        return found if isinstance(found, int) else None

    def carries_tokens(self, counted: int | None) -> bool:
        """Whether there is a generated token in it.

        By the server's own count where it keeps one (``continuous_usage_stats``: more than ``counted``, the count before it),
        then by token ids (``return_token_ids``), else by content, where an empty delta that does not announce a role counts:
        a token may decode to no text.
        """
        now = self.counted("completion_tokens")
        if now is not None and counted is not None and self.choices:
            return now > counted
        return any(_choice_carries_tokens(choice) for choice in self.choices)


def _choice_carries_tokens(choice: Json) -> bool:
    ids = choice.get("token_ids")
    if isinstance(ids, list):
        return bool(ids)
    delta = choice.get("delta")
    if not isinstance(delta, Mapping):
        return isinstance(choice.get("text"), str)
    return any(value for name, value in delta.items() if name != "role") or "role" not in delta


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One choice of a stream, put together.

    Attributes:
        index: Which choice.
        text: Its content (chat) or text (completions), concatenated.
        token_ids: Its token ids, ``None`` where the server sent none.
        finish_reasons: Every finish reason sent, in order; a correct stream has one.
        roles: Every role announced; a correct chat stream begins with one.
    """

    index: int
    text: str
    token_ids: tuple[int, ...] | None
    finish_reasons: tuple[str, ...]
    roles: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A streamed completion, parsed when first asked for.

    Attributes:
        exchange: The record underneath.
    """

    exchange: Exchange

    @cached_property
    def events(self) -> tuple[sse.Event, ...]:
        """Server-sent events of a 2xx response in order of arrival."""
        return sse.decode(self.exchange.response.body) if 200 <= self.exchange.status < 300 else ()

    @cached_property
    def _parsed(self) -> tuple[tuple[Chunk, ...], tuple[str, ...]]:
        chunks: list[Chunk] = []
        malformed: list[str] = []
        for event in self.events:
            if event.data == _DONE:
                continue
            try:
                body = _json(event.data)
            except ValueError:
                body = None
            if isinstance(body, dict):
                chunks.append(Chunk(event.at_ns, body))
            else:
                malformed.append(event.data)
        return tuple(chunks), tuple(malformed)

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """Events that are JSON objects, error objects included."""
        return self._parsed[0]

    @property
    def malformed(self) -> tuple[str, ...]:
        """Data of events that are neither a JSON object nor ``[DONE]``."""
        return self._parsed[1]

    @cached_property
    def token_chunks(self) -> tuple[Chunk, ...]:
        """Chunks that carry tokens."""
        found = []
        counted: int | None = None
        for chunk in self.chunks:
            now = chunk.counted("completion_tokens")
            if counted is None and now is not None and chunk.choices:
                counted = 0
            if chunk.carries_tokens(counted):
                found.append(chunk)
            counted = now if now is not None else counted
        return tuple(found)

    @property
    def done(self) -> bool:
        """The last event is ``[DONE]`` and there is only one."""
        return [event.data for event in self.events].count(_DONE) == 1 and self.events[-1].data == _DONE

    @property
    def error(self) -> object:
        """The error object inside the stream, or the body of an answer that is not 2xx; ``None`` when there is neither."""
        if self.exchange.status >= 300:
            return self.exchange.text
        return next((chunk.body["error"] for chunk in self.chunks if chunk.body.get("error") is not None), None)

    @cached_property
    def usage(self) -> Json | None:
        """The last usage sent."""
        return next((chunk.usage for chunk in reversed(self.chunks) if chunk.usage is not None), None)

    @cached_property
    def answers(self) -> tuple[Answer, ...]:
        """Every choice seen, by index."""
        by_index: dict[int, list[Json]] = {}
        for chunk in self.chunks:
            for choice in chunk.choices:
                index = choice.get("index")
                by_index.setdefault(index if isinstance(index, int) else 0, []).append(choice)
        return tuple(_answer(index, by_index[index]) for index in sorted(by_index))

    @property
    def text(self) -> str:
        """Text of the first choice."""
        return self.answers[0].text if self.answers else ""

    @property
    def token_ids(self) -> tuple[int, ...] | None:
        """Token ids of the first choice, where the server sends them."""
        return self.answers[0].token_ids if self.answers else None

    @property
    def finish_reason(self) -> str | None:
        """Finish reason of the first choice."""
        return self.answers[0].finish_reasons[0] if self.answers and self.answers[0].finish_reasons else None

    @cached_property
    def problems(self) -> tuple[str, ...]:
        """Why this is no proof of a successful stream; empty when it is one."""
        found = []
        if self.exchange.failure:
            found.append(str(self.exchange.failure))
        if self.exchange.stopped:
            found.append("we hung up")
        if not 200 <= self.exchange.status < 300:
            found.append(f"status {self.exchange.status}")
        if self.error is not None:
            found.append(f"error: {str(self.error)[:300]}")
        if self.malformed:
            found.append(f"{len(self.malformed)} events that are no JSON object: {self.malformed[0][:100]!r}")
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
        """A finish reason for every choice, usage, ``[DONE]`` at the end, and no error of any kind."""
        return not self.problems

    @cached_property
    def metrics(self) -> Metrics:
        """Its figures; see :class:`~vllm_ci.loadgen.metrics.Metrics` for the formulas."""
        usage = self.usage or {}
        output, prompt = usage.get("completion_tokens"), usage.get("prompt_tokens")
        return measure(
            sent_ns=self.exchange.sent_ns,
            token_chunks_ns=[chunk.at_ns for chunk in self.token_chunks],
            last_event_ns=self.events[-1].at_ns if self.events else None,
            output_tokens=output if isinstance(output, int) else None,
            prompt_tokens=prompt if isinstance(prompt, int) else None,
            choices=len(self.answers),
        )

    def describe(self) -> str:
        """One line for an assertion's message."""
        reasons = "; ".join(self.problems) or "complete"
        return f"{self.exchange.method} {self.exchange.path} streamed {len(self.events)} events: {reasons}"


def _answer(index: int, choices: Sequence[Json]) -> Answer:
    deltas = [choice["delta"] if isinstance(choice.get("delta"), Mapping) else choice for choice in choices]
    texts = [
        text for delta in deltas if isinstance(delta, Mapping) for text in (delta.get("content", delta.get("text")),) if text
    ]
    ids = [choice["token_ids"] for choice in choices if isinstance(choice.get("token_ids"), list)]
    return Answer(
        index=index,
        text="".join(text for text in texts if isinstance(text, str)),
        token_ids=tuple(token for part in ids if isinstance(part, list) for token in part) if ids else None,
        finish_reasons=tuple(str(choice["finish_reason"]) for choice in choices if choice.get("finish_reason") is not None),
        roles=tuple(str(delta["role"]) for delta in deltas if isinstance(delta, Mapping) and delta.get("role") is not None),
    )
