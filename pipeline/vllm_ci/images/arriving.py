"""Wheels that are fetched in the background: a layer is written as soon as its own wheels are there."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from vllm_ci.domain.errors import Interrupted
from vllm_ci.domain.events import Emit
from vllm_ci.images import supply
from vllm_ci.images.fetch import Download
from vllm_ci.images.lockfile import LockedWheel
from vllm_ci.images.store import Store


class Arriving:
    """Fetches wheels while the context lasts; leaving it waits for the rest, or gives them up after an error.

    Args:
        store: Where they go.
        groups: Wheels of each layer, in the order in which layers are written.
        emit: Told of downloads.
    """

    def __init__(self, store: Store, groups: Sequence[Iterable[LockedWheel]], *, emit: Emit) -> None:
        self._store, self._emit = store, emit
        self._wheels: dict[str, LockedWheel] = {}
        self._turns: dict[str, int] = {}
        for turn, group in enumerate(groups):
            for wheel in group:
                self._wheels.setdefault(wheel.sha256, wheel)
                self._turns.setdefault(wheel.sha256, turn)
        self._there: set[str] = set()
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="arriving")
        self._all: Future[None] | None = None

    def __enter__(self) -> Self:
        self._all = self._pool.submit(self._fetch)
        self._all.add_done_callback(lambda _: self._wake())
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.stop()
        self._pool.shutdown()
        if kind is None and self._all is not None:
            self._all.result()

    def stop(self) -> None:
        """Give up what is not there yet; whoever waits for it is told."""
        self._stop.set()
        self._wake()

    def wait(self, wheels: Iterable[LockedWheel]) -> None:
        """Return when these wheels are in the store.

        Raises:
            BuildError: One of all wheels is not available anywhere.
            Interrupted: The downloads were stopped.
        """
        wheels = tuple(wheels)
        wanted = {wheel.sha256 for wheel in wheels} & set(self._wheels)
        # A layer that was known when the downloads began, and was removed from the store in the meantime.
        supply.fetch_wheels(self._store, [wheel for wheel in wheels if wheel.sha256 not in wanted], emit=self._emit)
        with self._changed:
            while not wanted <= self._there:
                if self._all is not None and self._all.done():
                    self._all.result()
                if self._stop.is_set():
                    raise Interrupted("the downloads were stopped")
                self._changed.wait()

    def _fetch(self) -> None:
        wheels = self._wheels.values()
        supply.fetch_wheels(self._store, wheels, emit=self._emit, turns=self._turns, fetched=self._arrived, stop=self._stop)

    def _arrived(self, item: Download) -> None:
        with self._changed:
            self._there.add(item.sha256)
            self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
