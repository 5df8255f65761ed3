"""Runs a command's coroutine so that Ctrl-C, SIGTERM and SIGHUP stop what it started, in order."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import anyio
import anyio.abc

from vllm_ci.domain.errors import Interrupted

_Result = TypeVar("_Result")
# CI systems send SIGKILL about ten seconds after the first signal.
_SAVE_WITHIN_S = 9.0

Stopping = Callable[[str], Awaitable[None]]
"""Is told the name of the signal (``SIGTERM``), and gets a few seconds to save what is known."""


def run(main: Callable[[], Awaitable[_Result]], stopping: Stopping | None = None) -> _Result:
    """Result of ``main()``.

    At the first signal ``stopping`` is called, then ``main`` is cancelled, and what it holds is stopped. A second signal leaves
    at once (supervisors then stop what is left).

    Raises:
        Interrupted: A signal came.
    """
    return anyio.run(_Command(main=main, stopping=stopping).run)


def _signals() -> list[signal.Signals]:
    """Those that stop a command; a hang-up that is ignored (``nohup``) stays ignored."""
    hung_up = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hung_up]


@dataclass(kw_only=True)
class _Command(Generic[_Result]):
    main: Callable[[], Awaitable[_Result]]
    stopping: Stopping | None
    results: list[_Result] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    caught: str = ""

    async def run(self) -> _Result:
        saved = anyio.Event()
        with anyio.open_signal_receiver(*_signals()) as signals:
            async with anyio.create_task_group() as around:
                async with anyio.create_task_group() as inside:
                    around.start_soon(self._listen, signals, around, inside.cancel_scope, saved)
                    inside.start_soon(self._work)
                if self.caught:
                    await saved.wait()
                around.cancel_scope.cancel()
        if self.caught:
            why = f"in stopping: {self.errors[0]}" if self.errors else ""
            raise Interrupted(f"stopped by {self.caught}", why=why, remedy="nothing is left running; call it again")
        if self.errors:
            raise self.errors[0]
        return self.results[0]

    async def _work(self) -> None:
        try:
            self.results.append(await self.main())
        except Exception as error:  # noqa: BLE001 - raised again above, outside the group's wrapping
            self.errors.append(error)

    async def _listen(
        self,
        signals: AsyncIterator[signal.Signals],
        group: anyio.abc.TaskGroup,
        work: anyio.CancelScope,
        saved: anyio.Event,
    ) -> None:
        async for number in signals:
            if self.caught:
                os._exit(Interrupted.exit_code)
            self.caught = signal.Signals(number).name
            group.start_soon(self._save, work, saved)

    async def _save(self, work: anyio.CancelScope, saved: anyio.Event) -> None:
        try:
            if self.stopping is not None:
                with anyio.move_on_after(_SAVE_WITHIN_S):
                    await self.stopping(self.caught)
        except Exception as error:  # noqa: BLE001 - as above
            self.errors.append(error)
        finally:
            saved.set()
            work.cancel()
