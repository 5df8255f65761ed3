"""Find steps that were called but never awaited: they did not run, and a report without them would look complete."""

from __future__ import annotations

import inspect
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from vllm_ci.pipeline.errors import PipelineError, misuse


@dataclass(frozen=True, kw_only=True)
class _Call:
    """A call that must be awaited: its text, its location and its coroutine."""

    text: str
    at: str
    work: Coroutine[Any, Any, Any]


@dataclass(kw_only=True)
class Calls:
    """All step calls of a pipeline.

    Attributes:
        refused: Errors of calls that cannot work: a pipeline that catches them cannot hide them.
    """

    refused: list[PipelineError] = field(default_factory=list)
    _calls: list[_Call] = field(default_factory=list)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Keep the error of a call that cannot work, and raise it."""
        try:
            yield
        except PipelineError as error:
            self.refused.append(error)
            raise

    def add(self, text: str, at: str, work: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        """Register a call.

        Args:
            text: The call as text (``ci.build()``).
            at: ``path:line`` of the call.
            work: The coroutine that it returns.
        """
        self._calls.append(_Call(text=text, at=at, work=work))
        return work

    def check(self) -> None:
        """Check that every call has finished.

        Raises:
            PipelineError: A call was never awaited, or is still running.
        """
        calls, self._calls = self._calls, []
        states = [(call, inspect.getcoroutinestate(call.work)) for call in calls]
        for call, state in states:
            if state == inspect.CORO_CREATED:
                call.work.close()  # or Python warns about it, in its own words
        with self.refusing():
            self._refuse(states)

    @staticmethod
    def _refuse(states: Sequence[tuple[_Call, str]]) -> None:
        for call, state in states:
            if state == inspect.CORO_CREATED:
                raise misuse(f"{call.text} was not awaited: it did not run", remedy=f"write `await {call.text}`", at=call.at)
            if state != inspect.CORO_CLOSED:
                raise misuse(f"{call.text} is still running when the report is created", remedy="wait for it first", at=call.at)
