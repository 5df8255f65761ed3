"""What the server uses while it is measured: memory, processor, files, GPU memory, and gauges of its own, once a second."""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import httpx

from vllm_ci.performance import processes
from vllm_ci.performance.gpu import used_bytes
from vllm_ci.performance.server import Served
from vllm_ci.performance.trend import Trend, trend
from vllm_ci.suites import metrics

EVERY_S = 1.0
_PSS_EVERY = 5
"""Proportional memory is read with every fifth sample."""
_TIMEOUT_S = 5.0
GAUGES = {
    "kv_cache_share": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    "running": ("vllm:num_requests_running",),
    "waiting": ("vllm:num_requests_waiting",),
}
"""Gauges of vLLM; the first name that a server has is read."""
_GROWTH = ("rss_bytes", "pss_bytes", "gpu_bytes", "open_files")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What was used, by name.

    Names are ``rss_bytes``, ``pss_bytes``, ``open_files``, ``gpu_bytes``, ``kv_cache_share``, ``running`` and ``waiting``.

    Attributes:
        pid: The process of the server; ``None`` if it does not run on this machine, or cannot be found.
        samples: Number of samples.
        first: First value.
        last: Last value.
        peak: Largest value.
        cpu_s: Processor seconds; ``None`` without a process.
        growth: Trend over time, where the run was long enough.
    """

    pid: int | None
    samples: int
    first: Mapping[str, float]
    last: Mapping[str, float]
    peak: Mapping[str, float]
    cpu_s: float | None
    growth: Mapping[str, Trend] = field(default_factory=dict)


class Watch:
    """Samples a server in a thread while the context lasts.

    Args:
        served: The server.
        every_s: Seconds between two samples.
    """

    def __init__(self, served: Served, *, every_s: float = EVERY_S) -> None:
        self._served = served
        self._every_s = every_s
        self._pid = processes.listening(served.url)
        self._values: dict[str, list[tuple[float, float]]] = {}
        self._cpu: list[float] = []
        self._samples = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resources", daemon=True)

    def __enter__(self) -> Self:
        self._begun = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.set()
        self._thread.join(timeout=2 * _TIMEOUT_S)

    def _run(self) -> None:
        with httpx.Client(headers=dict(self._served.headers), timeout=_TIMEOUT_S, trust_env=False) as http:
            while True:
                self._sample(http)
                if self._end.wait(self._every_s):
                    break
            self._sample(http, last=True)

    def _sample(self, http: httpx.Client, *, last: bool = False) -> None:
        now = time.monotonic() - self._begun
        found: dict[str, float | None] = {"gpu_bytes": used_bytes() if self._pid else None}
        used = processes.used(self._pid, pss=last or self._samples % _PSS_EVERY == 0) if self._pid else None
        if used is not None:
            found |= {"rss_bytes": used.rss_bytes, "pss_bytes": used.pss_bytes, "open_files": used.open_files}
            self._cpu.append(used.cpu_s)
        found |= self._gauges(http)
        for name, value in found.items():
            if value is not None:
                self._values.setdefault(name, []).append((now, value))
        self._samples += 1

    def _gauges(self, http: httpx.Client) -> dict[str, float]:
        if not self._served.facts.can("metrics"):
            return {}
        with contextlib.suppress(httpx.HTTPError, ValueError):
            answer = http.get(f"{self._served.url}/metrics")
            return gauges(answer.text) if answer.status_code == 200 else {}
        return {}

    def values(self, name: str) -> tuple[tuple[float, float], ...]:
        """Values of a name so far, each with its time in seconds after the start."""
        return tuple(self._values.get(name, ()))

    def found(self, *, warm_up_s: float = 0.0) -> Resources:
        """What was used; growth counts from the end of the warm-up.

        Args:
            warm_up_s: Seconds after the start.
        """
        growth = {name: trend([(at, value) for at, value in self._values.get(name, ()) if at >= warm_up_s]) for name in _GROWTH}
        return Resources(
            pid=self._pid,
            samples=self._samples,
            first={name: values[0][1] for name, values in self._values.items()},
            last={name: values[-1][1] for name, values in self._values.items()},
            peak={name: max(value for _, value in values) for name, values in self._values.items()},
            cpu_s=_spent(self._cpu),
            growth={name: slope for name, slope in growth.items() if slope is not None},
        )


def _spent(cpu: Sequence[float]) -> float | None:
    """Processor seconds between the first and the last sample, without those that an ended process took with it."""
    return sum(max(late - early, 0.0) for early, late in itertools.pairwise(cpu)) if cpu else None


def gauges(text: str) -> dict[str, float]:
    """The gauges of a scrape, without those that are no number (``NaN`` stands for an unknown value).

    Raises:
        ValueError: A line of a gauge is not a sample.
    """
    wanted = tuple(name for names in GAUGES.values() for name in names)
    # Only these lines are parsed: a scrape has hundreds, and the load runs in the same process.
    found = metrics.parse("\n".join(line for line in text.split("\n") if line.startswith(wanted)))
    present = {ours: next((name for name in names if name in found), "") for ours, names in GAUGES.items()}
    totals = {ours: found.total(name) for ours, name in present.items() if name}
    return {ours: total for ours, total in totals.items() if math.isfinite(total)}
