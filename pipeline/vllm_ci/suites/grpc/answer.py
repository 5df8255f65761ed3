"""An answer of the engine: its messages with the times at which they came, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import grpc

from vllm_ci.suites.verdicts import Fault

FINISHED = ("stop", "length")
"""Finish reasons of a whole answer (``GenerateComplete.finish_reason`` in vLLM's protocol)."""


MISTAKES = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
"""Statuses that tell a client to change its request, or that the server does not offer what it asks for."""


class NotServedError(Fault):
    """A valid request was not served."""

    cause: ClassVar[Mapping[str, str]] = {
        "id": "grpc-not-served",
        "title": "valid requests to Generate end with an error",
        "severity": "high",
    }


class CallError(Fault):
    """A method that answers with one message ended with an error.

    Args:
        name: The method.
        error: The error.
    """

    def __init__(self, name: str, error: grpc.RpcError) -> None:
        self.code = error.code()
        super().__init__(f"{name} ends with {self.code.name}: {' '.join((error.details() or '').split())}")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One message of an answer.

    Attributes:
        at_s: When it came, in seconds after the request.
        final: It ends its choice (``complete``); otherwise it is a piece of it (``chunk``).
        message: The piece or the end, as in vLLM's protocol.
    """

    at_s: float
    final: bool
    message: Any

    @property
    def index(self) -> int:
        """The choice that it belongs to."""
        return int(self.message.index)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Its token ids."""
        return tuple(self.message.output_ids if self.final else self.message.token_ids)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came for one request.

    Attributes:
        parts: Its messages in order.
        code: Status that ended it.
        details: What the server said about the status.
        seconds: How long it took.
        streamed: A stream was requested.
        other: Number of messages that are neither a piece nor an end.
    """

    parts: Sequence[Part]
    code: grpc.StatusCode
    details: str
    seconds: float
    streamed: bool
    other: int = 0
    asked: Mapping[str, object] = field(default_factory=dict)

    @property
    def said(self) -> str:
        """Status and details, in one line."""
        details = " ".join(self.details.split())
        return f"{self.code.name}{f': {details[:300]}' if details else ''}"

    @property
    def ends(self) -> list[Part]:
        """The messages that end a choice."""
        return [part for part in self.parts if part.final]

    @property
    def pieces(self) -> list[Part]:
        """The other messages."""
        return [part for part in self.parts if not part.final]

    def end(self, index: int = 0) -> Any:
        """The message that ends a choice.

        Raises:
            NotServedError: There is none, or more than one.
        """
        found = [part.message for part in self.ends if part.index == index]
        if len(found) != 1:
            raise NotServedError(f"{len(found)} messages `complete` for choice {index} instead of one; {self.shape}")
        return found[0]

    def tokens(self, index: int = 0) -> tuple[int, ...]:
        """All token ids of a choice: of a stream, those of its pieces in order."""
        if not self.streamed:
            return tuple(self.end(index).output_ids)
        return tuple(token for part in self.pieces if part.index == index for token in part.tokens)

    @property
    def shape(self) -> str:
        """Its messages in short, for a message about it."""
        kinds = [f"{'complete' if part.final else 'chunk'}[{part.index}] of {len(part.tokens)} tokens" for part in self.parts]
        return f"received: {', '.join(kinds[:6])}{' ...' if len(kinds) > 6 else ''}" if kinds else "received: no message"

    def served(self) -> Self:
        """Itself, if it is whole.

        Raises:
            NotServedError: It ended with an error, or without a finish reason.
        """
        if self.code is not grpc.StatusCode.OK:
            raise NotServedError(f"Generate ended with {self.said} after {self.seconds:.1f} s; {self.shape}")
        if not self.ends:
            raise NotServedError(f"Generate ended with OK, but without a message `complete`; {self.shape}")
        for part in self.ends:
            if part.message.finish_reason not in FINISHED:
                raise NotServedError(f"finish reason {part.message.finish_reason!r}, not one of {', '.join(FINISHED)}")
        return self


def agree(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two greedy answers are the same but for rounding: at least the first half is."""
    half = max((min(len(one), len(other)) + 1) // 2, 1)
    return len(one) == len(other) and list(one[:half]) == list(other[:half])
