"""Starts and ends the process that keeps the request log; like the gateway it outlives the command that started it."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import anyio

import vllm_ci
from vllm_ci.datasets.request_log import RequestLog
from vllm_ci.domain.errors import EngineError, ErroredError
from vllm_ci.engines import detached
from vllm_ci.targets.local.recording import LOG_FOLDER, bounds
from vllm_ci.targets.local.state import State

_END_S = 5.0
_TOLD = ("PATH", "LANG", "TZ")


@dataclass(frozen=True, kw_only=True)
class Recorder:
    """The recorder of a deployment.

    Attributes:
        folder: Of the target.
    """

    folder: Path

    @property
    def _mark(self) -> str:
        return f"{self.folder}/recorder"

    async def ensured(self, state: State) -> State:
        """It runs if the settings say so, and does not otherwise; call it with the lock. Requests are served in any case."""
        wanted = state.settings.log_requests
        alive = state.recorder is not None and state.recorder.alive
        if wanted and not alive:
            return replace(state, recorder=await anyio.to_thread.run_sync(self._started))
        if not wanted:
            if state.recorder is not None:
                await self.end(state.recorder)
                state = replace(state, recorder=None)
            with suppress(OSError, ErroredError):  # nobody else deletes what is too old by now
                RequestLog(folder=self.folder / LOG_FOLDER).prune(bounds(state.settings), now=datetime.now(UTC))
        return state

    def _started(self) -> detached.Identity | None:
        # One may be left of a command that was killed before it could write down what it had started.
        detached.end_marked(self._mark)
        ours = str(Path(vllm_ci.__file__).parents[1])
        env = {name: os.environ[name] for name in _TOLD if name in os.environ}
        argv = [sys.executable, "-m", "vllm_ci.targets.local.recording", str(self.folder)]
        try:
            log = self.folder / "recorder.log"
            log.unlink(missing_ok=True)
            return detached.start(argv, env={**env, "PYTHONPATH": ours}, cwd=self.folder, log=log, mark=self._mark)
        except (OSError, EngineError):
            return None

    async def end(self, identity: detached.Identity | None) -> None:
        """End it, if it runs."""
        if identity is not None:
            identity.signal(signal.SIGTERM)
            with anyio.move_on_after(_END_S):
                while identity.alive:
                    await anyio.sleep(0.02)
        await anyio.to_thread.run_sync(detached.end_marked, self._mark)
