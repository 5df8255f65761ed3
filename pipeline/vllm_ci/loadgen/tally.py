"""Summary of a stream, computed in one pass without keeping its chunks.

Keeping a dictionary for each of a million events would cost 2.5 kB and two microseconds per event (measured).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from vllm_ci.loadgen.chunk import DONE, Json, has_content, has_tokens, json_object, number
from vllm_ci.loadgen.sse import Event


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One choice of a stream, assembled from its chunks.

    Attributes:
        index: Index of the choice.
        text: Its content (chat) or text (completions), concatenated.
        token_ids: Its token ids; ``None`` if the server sent none.
        finish_reasons: All finish reasons, in order; a correct stream has one.
        roles: All roles; a correct chat stream has one.
    """

    index: int
    text: str
    token_ids: tuple[int, ...] | None
    finish_reasons: tuple[str, ...]
    roles: tuple[str, ...]


class _Parts:
    """A choice while it is assembled."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.token_ids: list[int] | None = None
        self.finish_reasons: list[str] = []
        self.roles: list[str] = []

    def add(self, choice: Json) -> None:
        """Add a choice of one chunk."""
        delta = choice.get("delta")
        if isinstance(delta, dict):
            text = delta.get("content")
            if (role := delta.get("role")) is not None:
                self.roles.append(str(role))
        else:
            text = choice.get("text")
        if text and isinstance(text, str):
            self.texts.append(text)
        ids = choice.get("token_ids")
        if isinstance(ids, list):
            self.token_ids = (self.token_ids or []) + ids
        if reason := choice.get("finish_reason"):  # some servers send an empty string until the end
            self.finish_reasons.append(str(reason))

    def answer(self, index: int) -> Answer:
        """The assembled choice."""
        return Answer(
            index=index,
            text="".join(self.texts),
            token_ids=tuple(self.token_ids) if self.token_ids is not None else None,
            finish_reasons=tuple(self.finish_reasons),
            roles=tuple(self.roles),
        )


@dataclass(kw_only=True)
class Tally:
    """Summary of the events of a stream.

    Attributes:
        events: Number of events.
        last_event_ns: Clock of the last event.
        done: The last event is ``[DONE]`` and there is only one.
        malformed: Data of events that are neither a JSON object nor ``[DONE]``.
        error: The first error object in the stream.
        usage: The last usage object.
        token_chunks_ns: Clocks of the chunks that contain tokens.
        content_ns: Clocks of the chunks with content.
        counts_tokens: Chunks say how many tokens they bring, by ids or by a running count.
        ends: Number of events ``[DONE]``.
    """

    events: int = 0
    last_event_ns: int | None = None
    done: bool = False
    malformed: list[str] = field(default_factory=list)
    error: object = None
    usage: Json | None = None
    token_chunks_ns: list[int] = field(default_factory=list)
    content_ns: list[int] = field(default_factory=list)
    counts_tokens: bool = False
    ends: int = 0
    _counted: int = 0
    _choices: defaultdict[int, _Parts] = field(default_factory=lambda: defaultdict(_Parts))

    @classmethod
    def of(cls, events: Iterable[Event]) -> Tally:
        """Read ``events`` once."""
        tally = cls()
        last = ""
        for event in events:
            tally.events += 1
            tally.last_event_ns = event.at_ns
            last = event.data
            if last == DONE:
                tally.ends += 1
            elif (body := json_object(last)) is not None:
                tally._add(event.at_ns, body)
            else:
                tally.malformed.append(last)
        tally.done = tally.ends == 1 and last == DONE
        return tally

    def _add(self, at_ns: int, body: Json) -> None:
        usage = body.get("usage")
        usage = usage if isinstance(usage, dict) else None
        self.usage = usage or self.usage
        if self.error is None:
            self.error = body.get("error")
        choices = body.get("choices")
        if not isinstance(choices, list) or not choices:
            return
        count = number(usage, "completion_tokens")
        # The server's running count (``continuous_usage_stats``), if sent, is more reliable than the choices.
        carries = count is not None and count > self._counted
        shows = False
        for choice in choices:
            if isinstance(choice, dict):
                carries = carries or (count is None and has_tokens(choice))
                shows = shows or has_content(choice)
                self.counts_tokens = self.counts_tokens or (choice.get("finish_reason") is None and count is not None)
                self.counts_tokens = self.counts_tokens or isinstance(choice.get("token_ids"), list)
                index = choice.get("index")
                self._choices[index if isinstance(index, int) else 0].add(choice)
        self._counted = count or self._counted
        if carries:
            self.token_chunks_ns.append(at_ns)
        if shows:
            self.content_ns.append(at_ns)

    @property
    def arrivals_ns(self) -> list[int]:
        """Clocks at which parts of the answer arrived: of tokens if chunks count them, otherwise of content.

        A chunk without content may be a token without text, or an empty first chunk as some servers send it.
        """
        return self.token_chunks_ns if self.counts_tokens else self.content_ns or self.token_chunks_ns

    @property
    def answers(self) -> tuple[Answer, ...]:
        """All choices, by index."""
        return tuple(parts.answer(index) for index, parts in sorted(self._choices.items()))
