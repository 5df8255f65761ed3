"""Adds and revokes keys of a deployment; a gateway that runs takes the change before the call returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import anyio

from vllm_ci.datasets.request_log import RequestLog
from vllm_ci.domain.errors import UsageError
from vllm_ci.targets.local.configuration import Configuration
from vllm_ci.targets.local.keys import KEY_FILE, Key, KeyFile
from vllm_ci.targets.local.recording import LOG_FOLDER
from vllm_ci.targets.local.state import State, Store

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The keys of the deployment in ``folder``; it need not have been deployed yet."""

    folder: Path

    @property
    def _file(self) -> KeyFile:
        return KeyFile(path=self.folder / KEY_FILE)

    def all(self) -> list[Key]:
        """All keys, sorted by name.

        Raises:
            ErroredError: The file cannot be read.
        """
        return self._file.keys()

    async def add(self, name: str, *, consent: bool = False) -> str:
        """Add a key; returns it, which cannot be had again.

        Raises:
            UsageError: The name is taken or not valid.
            ErroredError: The gateway did not take it; then it is not added.
        """
        return await self._changed(lambda: self._file.add(name, consent=consent))

    async def revoke(self, name: str) -> int:
        """Remove a key; requests that are open go on. What was recorded of it is deleted: the number of rows.

        Raises:
            UsageError: There is none of this name.
            ErroredError: The gateway did not take it; then it is still accepted. Or rows cannot be deleted.
        """
        try:
            await self._changed(lambda: self._file.revoke(name))
        except UsageError:
            if name not in {each.key for each in self.log.summaries()}:
                raise
            # A command that was killed has revoked it, and not yet deleted the rows.
        return await anyio.to_thread.run_sync(self.log.delete, name)

    async def consent(self, name: str, *, given: bool) -> int:
        """Let requests and answers of a key be recorded, or not any more, which also deletes what was: the number of rows.

        Raises:
            UsageError: There is none of this name.
            ErroredError: The file cannot be written, or rows cannot be deleted.
        """
        async with Store(folder=self.folder).lock():
            self._file.consent(name, given=given)
        # Whoever records looks at the file while it holds the lock of the log: after this, nothing more is written.
        return 0 if given else await anyio.to_thread.run_sync(self.log.delete, name)

    @property
    def log(self) -> RequestLog:
        """What was recorded."""
        return RequestLog(folder=self.folder / LOG_FOLDER)

    async def _changed(self, change: Callable[[], _Result]) -> _Result:
        store = Store(folder=self.folder)
        async with store.lock():
            state, before = store.load(), self._file.keys()
            try:
                result = change()
            except UsageError:  # a command that was killed may have done that, and not told the gateway
                await self._taken(state)
                raise
            try:
                await self._taken(state)
            except BaseException:
                self._file.save(before)
                raise
            return result

    async def _taken(self, state: State) -> None:
        """Have a gateway that runs take the keys of the file; others read it when they start."""
        if state.envoy is not None and state.envoy.alive and state.settings.api_keys:
            await Configuration(folder=self.folder / "gateway").take_keys(self._file.hashes())
