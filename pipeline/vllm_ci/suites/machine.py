"""Whether this machine had processor time for a measurement: pressure, run queue, and the delay of our own timers.

A server on a starved machine delivers late, whatever its code does. A verdict about timing is only ``failed`` when the machine
could have delivered (Linux documentation, "PSI - Pressure Stall Information").
"""

from __future__ import annotations

import os
import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

_PRESSURE = Path("/proc/pressure/cpu")
_LOAD = Path("/proc/loadavg")
_STAT = Path("/proc/stat")
_STEAL = 8  # column of the line "cpu" (proc_stat(5))
_TOTAL = re.compile(r"^some .*total=(\d+)", re.MULTILINE)
_TICK_S = 0.01
STALLED = 0.10
"""Share of the time in which some task waited for a processor, from which a machine counts as starved."""
QUEUED = 1.5
"""Runnable tasks for each processor, from which a machine counts as starved."""
STOLEN = 0.10
"""Share of its processor time that the host of a virtual machine gave to others, from which a machine counts as starved."""
LATE_S = 0.05
"""Delay of one of our own timers, from which a machine counts as starved."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was seen of the machine.

    Attributes:
        stalled: Share of the time in which some task waited for a processor; ``None`` where the kernel does not tell.
        queue: Largest number of runnable tasks for each processor; ``None`` where it is unknown.
        late_s: Largest delay of a timer of this process.
        stolen: Share of the processors' time that the host of this virtual machine gave to others.
    """

    stalled: float | None
    queue: float | None
    late_s: float
    stolen: float = 0.0

    @property
    def starved(self) -> str:
        """Why the machine could not have delivered in time; empty if it could."""
        reasons = []
        if self.stalled is not None and self.stalled >= STALLED:
            reasons.append(f"tasks waited for a processor during {self.stalled:.0%} of the time")
        if self.queue is not None and self.queue >= QUEUED:
            reasons.append(f"{self.queue:.1f} tasks were runnable for each processor")
        if self.stolen >= STOLEN:
            reasons.append(f"the host gave {self.stolen:.0%} of the processors' time to others")
        if self.late_s >= LATE_S:
            reasons.append(f"a timer of the tests was {self.late_s * 1000:.0f} ms late")
        return ", ".join(reasons)


@dataclass(kw_only=True)
class Watch:
    """Watches the machine while the context lasts; :attr:`seen` says what happened so far."""

    _begun_s: float = 0.0
    _begun_us: int | None = None
    _begun_stolen_s: float = 0.0
    _queue: float | None = None
    _late_s: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._begun_s, self._begun_us, self._begun_stolen_s = time.monotonic(), _stalled_us(), _stolen_s()
        self._thread = threading.Thread(target=self._tick, name="machine-watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def seen(self) -> Seen:
        """What was seen since the start."""
        elapsed_us = max((time.monotonic() - self._begun_s) * 1e6, 1.0)
        now_us = _stalled_us()
        stalled = None if now_us is None or self._begun_us is None else (now_us - self._begun_us) / elapsed_us
        stolen = (_stolen_s() - self._begun_stolen_s) * 1e6 / elapsed_us / (os.cpu_count() or 1)
        return Seen(stalled=stalled, queue=self._queue, late_s=self._late_s, stolen=stolen)

    def _tick(self) -> None:
        queued: list[float] = []
        while not self._stop.is_set():
            due_s = time.monotonic() + _TICK_S
            self._stop.wait(_TICK_S)
            self._late_s = max(self._late_s, time.monotonic() - due_s)
            if (runnable := _runnable()) is not None:
                queued.append(runnable)
                self._queue = sum(queued) / len(queued)


def _stalled_us() -> int | None:
    """Microseconds since boot in which some task waited for a processor; ``None`` where the kernel does not tell."""
    try:
        found = _TOTAL.search(_PRESSURE.read_text(encoding="ascii"))
    except OSError:
        return None
    return int(found[1]) if found else None


def _stolen_s() -> float:
    """Seconds of all processors since boot that the host gave to others; 0 where the kernel does not tell."""
    try:
        return int(_STAT.read_text(encoding="ascii").split(maxsplit=_STEAL + 1)[_STEAL]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


def _runnable() -> float | None:
    """Runnable tasks beside our own, for each processor."""
    try:
        running = _LOAD.read_text(encoding="ascii").split()[3].partition("/")[0]
        return max(int(running) - 1, 0) / (os.cpu_count() or 1)
    except (OSError, ValueError, IndexError):
        return None
