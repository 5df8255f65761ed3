"""Conversations: requests that follow one another, and in which order those of several conversations are sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from vllm_ci.performance.workload import Ask


@dataclass(kw_only=True, eq=False)
class Conversation:
    """Requests of one user, of which each waits for the answer to the one before.

    Attributes:
        asks: Its requests in order; most have one.
        answers: Texts of the answers so far.
    """

    asks: tuple[Ask, ...]
    answers: list[str] = field(default_factory=list)

    def with_answers(self, ask: Ask) -> Ask:
        """A request whose earlier answers are those of the model, not the synthetic ones, where it gave any."""
        given = iter(self.answers)
        messages = tuple(
            {**message, "content": next(given, "") or message["content"]} if message["role"] == "assistant" else message
            for message in ask.messages
        )
        return replace(ask, messages=messages)


def conversations(asks: Iterator[Ask]) -> Iterator[Conversation]:
    """Group requests by :attr:`Ask.follows`.

    Raises:
        ValueError: A request follows another one than the request before it.
    """
    group: list[Ask] = []
    for number, ask in enumerate(asks):
        if ask.follows is None:
            if group:
                yield Conversation(asks=tuple(group))
            group = [ask]
        elif group and ask.follows == number - 1:
            group.append(ask)
        else:
            raise ValueError(f"request {number} follows request {ask.follows}, not the one before it")
    if group:
        yield Conversation(asks=tuple(group))


def interleaved(found: Iterator[Conversation], width: int) -> Iterator[tuple[Conversation, int]]:
    """Turns of ``width`` conversations at a time in rotation: two turns of one conversation are ``width`` requests apart.

    The order depends on nothing but the requests, so two servers get the same.

    Args:
        found: The conversations.
        width: How many go on at the same time.
    """
    going: deque[tuple[Conversation, int]] = deque()
    while True:
        while len(going) < width and (new := next(found, None)) is not None:
            going.append((new, 0))
            if len(new.asks) == 1:
                break  # alone in its conversation: send it now, so that endless workloads are not read ahead
        if not going:
            return
        conversation, turn = going.popleft()
        yield conversation, turn
        if turn + 1 < len(conversation.asks):
            going.append((conversation, turn + 1))
