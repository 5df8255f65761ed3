"""Runs a command's coroutine so that Ctrl-C, SIGTERM and SIGHUP stop it and everything that it started, in order."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import anyio
import anyio.abc

from vllm_ci.domain.errors import Interrupted

_Result = TypeVar("_Result")
# CI systems send SIGKILL about ten seconds after the first signal.
_SAVE_WITHIN_S = 9.0
_NOTICED_WITHIN_S = 3.0

Stopping = Callable[[str], Awaitable[None]]
"""Called with the name of the signal (``SIGTERM``); has a few seconds to save results."""


def run(
    main: Callable[[], Awaitable[_Result]], stopping: Stopping | None = None, blocked: Callable[[str], None] | None = None
) -> _Result:
    """Run ``main()`` and return its result.

    At the first signal ``stopping`` is called, then ``main`` is cancelled and its services are stopped. A second signal exits
    immediately (supervisors then stop the remaining processes).

    Args:
        main: What runs.
        stopping: Saves results.
        blocked: Saves results in a thread, where code that never awaits keeps ``stopping`` from being called (a user's
            ``while True: ...``); the process exits afterwards.

    Raises:
        Interrupted: A signal was received.
    """
    before = {number: signal.getsignal(number) for number in _signals()}
    try:
        return anyio.run(_Command(main=main, stopping=stopping, blocked=blocked).run)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signals() -> list[signal.Signals]:
    """Signals that stop a command; SIGHUP is left out if it is ignored (``nohup``)."""
    hung_up = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hung_up]


@dataclass(kw_only=True)
class _Command(Generic[_Result]):
    main: Callable[[], Awaitable[_Result]]
    stopping: Stopping | None
    blocked: Callable[[str], None] | None
    results: list[_Result] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    caught: str = ""

    async def run(self) -> _Result:
        saved = anyio.Event()
        with anyio.open_signal_receiver(*_signals()) as signals:
            for number in _signals():  # beside the event loop, which is told of signals through its own file descriptor
                signal.signal(number, self._watch)
            async with anyio.create_task_group() as around:
                async with anyio.create_task_group() as inside:
                    around.start_soon(self._listen, signals, around, inside.cancel_scope, saved)
                    inside.start_soon(self._work)
                if self.caught:
                    await saved.wait()
                around.cancel_scope.cancel()
        if self.caught:
            why = f"error while stopping: {self.errors[0]}" if self.errors else ""
            raise Interrupted(f"stopped by {self.caught}", why=why, remedy="nothing is left running; run the command again")
        if self.errors:
            raise self.errors[0]
        return self.results[0]

    def _watch(self, number: int, _: object) -> None:
        """Exit if the event loop has not noticed the signal after a few seconds."""
        timer = threading.Timer(_NOTICED_WITHIN_S, self._abandon, [signal.Signals(number).name])
        timer.daemon = True
        timer.start()

    def _abandon(self, name: str) -> None:
        if self.caught:
            return
        try:
            if self.blocked is not None:
                self.blocked(name)
        finally:
            with suppress(OSError):  # nobody reads it
                os.write(2, f"vllm-ci: stopped by {name}\n".encode())
            os._exit(Interrupted.exit_code)

    async def _work(self) -> None:
        try:
            self.results.append(await self.main())
        except Exception as error:  # noqa: BLE001 - raised in run(), without an exception group
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
        except Exception as error:  # noqa: BLE001 - reported in run()
            self.errors.append(error)
        finally:
            saved.set()
            work.cancel()
