"""Overload a server: what it does with more requests than it can serve, and how fast it recovers.

A light load and a short search come first, for the capacity. Then one load without a pause: a calm phase, one at a multiple
of the capacity, and a calm one again, in which the server works off what it has accepted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm_ci.loadgen.metrics import percentile
from vllm_ci.performance.driven import Driver, Record
from vllm_ci.performance.headroom import search
from vllm_ci.performance.load import Load
from vllm_ci.performance.measuring import Setting
from vllm_ci.performance.outcome import Outcome
from vllm_ci.performance.overload_result import Overload, judged, recovered_from_search
from vllm_ci.performance.recovery import MOST_CALM_SHARE, Plan, Recovery, limit_ms, ttft_ms
from vllm_ci.performance.resources import Watch
from vllm_ci.performance.server import Served

FACTOR = 2.0
_CALM_SHARE = 0.3
"""Of the capacity, where no rate is given."""
_LOOK_EVERY_S = 0.5
_PROBE_S = 5.0
_PROBE_REQUESTS = 5
_PROBES_S = 60.0
_SEEDS = 1000
"""Between the seeds of two loads: prompts must not be in the prefix cache."""
_MEMORY = ("rss_bytes", "pss_bytes", "gpu_bytes", "open_files")


def overload(
    served: Served,
    setting: Setting,
    *,
    factor: float = FACTOR,
    tell: Callable[[str], None] = lambda _line: None,
    watch: Callable[[Load], None] = lambda _load: None,
) -> Overload:
    """Overload a server. Ctrl-C, SIGTERM or a server that is gone end it early, and what was measured is kept.

    Args:
        served: The server.
        setting: Workload, pattern, seed, objective; the rate is that of the calm phases, 0 for 30 % of the capacity; the
            duration is that of the overload, and the shortest of the calm phases.
        factor: Multiple of the capacity, above 1.
        tell: Called with a line on each step.
        watch: Called with the load at every start and end of a request.

    Raises:
        ValueError: ``factor`` is not above 1.
    """
    if factor <= 1:
        raise ValueError(f"{factor:g} times the capacity is no overload")
    test = _Test(
        driver=Driver(served=served, setting=setting, watch=watch), found=Overload(setting=setting, factor=factor), tell=tell
    )
    _allow_open_files()
    try:
        record = test.run()
    except KeyboardInterrupt:  # between two loads
        record = Record(interrupted=True)
    return judged(test.found, record)


@dataclass(kw_only=True)
class _Test:
    """The steps of the test. ``found`` has what was found so far, also after an interruption."""

    driver: Driver
    found: Overload
    tell: Callable[[str], None]

    def run(self) -> Record:
        """Run it to its end, or until there is no use in going on; returns the last load."""
        setting = self.found.setting
        single = self._single()
        light = _median_ttft(single)
        if light is None or _ended(single):
            return single
        alone_ms = percentile([sample.e2e_ms for sample, outcome in single if outcome is Outcome.SERVED], 50)
        self.tell(f"one request at a time: {light:.0f} ms to the first token, {alone_ms:.0f} ms in all")
        room = search(self.driver, max(1000 / alone_ms, setting.rate), least_s=self._probe_s, tell=self.tell)
        calm_rate = setting.rate or _CALM_SHARE * room.capacity_per_s
        setting = dataclasses.replace(setting, rate=calm_rate)
        self.found = dataclasses.replace(self.found, capacity=room, light_ttft_ms=(light,), setting=setting)
        if not room.found or _ended(room.record) or calm_rate > MOST_CALM_SHARE * room.capacity_per_s:
            return room.record
        single = self._single(limit=limit_ms(light))
        last = _median_ttft(single, last=_PROBE_REQUESTS)
        self.found = dataclasses.replace(self.found, light_ttft_ms=(light, math.inf if last is None else last))
        if _ended(single) or not recovered_from_search(self.found):
            return single
        return self._through(Plan.of(room.capacity_per_s, calm_rate, factor=self.found.factor, duration_s=setting.duration_s))

    @property
    def _probe_s(self) -> float:
        return min(_PROBE_S, self.found.setting.duration_s / 2)

    def _single(self, *, limit: float = math.inf) -> Record:
        """One request at a time, until there are enough, and the last ones are within the limit."""
        begun = time.monotonic()

        def stop(record: Record, load: Load) -> None:
            if len(record.samples) < _PROBE_REQUESTS:
                return
            if limit == math.inf and not record.count(Outcome.SERVED):
                load.stop = True  # a server that refuses single requests is not asked for longer
            elif time.monotonic() - begun >= self._probe_s:
                last = _median_ttft(record, last=_PROBE_REQUESTS)
                load.stop = limit == math.inf or (last is not None and last <= limit)

        seed = self.driver.setting.seed + _SEEDS * (1 if limit == math.inf else 2)
        setting = dataclasses.replace(self.driver.setting, rate=0.0, seed=seed)
        seconds = _PROBES_S if limit == math.inf else max(self.found.setting.duration_s, self._probe_s)
        return dataclasses.replace(self.driver, setting=setting).one_at_a_time(seconds, stop=stop)

    def _through(self, plan: Plan) -> Record:
        """The load with its three phases."""
        setting = dataclasses.replace(self.found.setting, seed=self.driver.setting.seed + 3 * _SEEDS)
        calm, under = f"{plan.calm_rate:.3g} requests/s for {plan.begin_s:.0f} s", f"{plan.overload_rate:.3g}"
        self.tell(f"{calm}, then {under} for {setting.duration_s:g} s, then {plan.calm_rate:.3g} until latency is back")
        recovery = Recovery(plan=plan)
        looked_s = plan.end_s

        def stop(record: Record, load: Load) -> None:
            nonlocal looked_s
            ((sample, outcome),) = record.since(len(record.samples) - 1)
            recovery.add(sample, outcome)
            if sample.end_s >= looked_s + _LOOK_EVERY_S:
                looked_s = sample.end_s
                load.stop = looked_s >= plan.end_s + setting.duration_s / 2 and recovery.back_s is not None

        # As many conversations at a time as the overload needs.
        driver = dataclasses.replace(self.driver, setting=dataclasses.replace(setting, rate=plan.overload_rate))
        with Watch(driver.served) as resources:
            record = driver.open_loop(plan.times(setting), stop=stop)
        found = _measured(record, plan, setting)
        self.found = dataclasses.replace(
            self.found, **found, limit_ms=recovery.limit_ms, back_s=recovery.back_s, memory=_memory(resources, plan)
        )
        return record


def _allow_open_files() -> None:
    """Raise the limit of open files as far as it goes: a server that queues holds a connection for every request."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _ended(record: Record) -> bool:
    """Whether nothing can follow."""
    return record.interrupted or record.gone


def _median_ttft(record: Record, *, last: int = 0) -> float | None:
    """Median of the served requests, or of the last ones, where one that was not served counts as endless."""
    found = record.since(max(len(record.samples) - last, 0) if last else 0)
    values = [ttft_ms(sample, outcome) for sample, outcome in found if last or outcome is Outcome.SERVED]
    return sorted(values)[len(values) // 2] if values else None


def _measured(record: Record, plan: Plan, setting: Setting) -> dict[str, Any]:
    """Fields of the result."""
    last_s = max((sample.due_s for sample in record.samples), default=0.0) + 1e-6
    phases = {
        "calm": (0.0, plan.begin_s, plan.calm_rate),
        "overload": (plan.begin_s, plan.end_s, plan.overload_rate),
        "recovery": (plan.end_s, plan.last_s, plan.calm_rate),
    }
    found: dict[str, Any] = {
        name: record.phase(begin_s, min(end_s, last_s), rate=rate, objective=setting.objective)
        for name, (begin_s, end_s, rate) in phases.items()
        if begin_s < last_s
    }
    return {**found, "drained_s": _drained(record, plan), "watched_s": max(last_s - plan.end_s, 0.0)}


def _drained(record: Record, plan: Plan) -> float | None:
    """Seconds after the overload when the last of its requests had ended; ``None`` if some did not by themselves."""
    due = [(sample, outcome) for sample, outcome in record if sample.due_s < plan.end_s]
    if not due or _ended(record) or any(outcome is Outcome.TIMEOUT for _, outcome in due):
        return None
    return max(max(sample.end_s for sample, _ in due) - plan.end_s, 0.0)


def _memory(resources: Watch, plan: Plan) -> dict[str, tuple[float, float, float]]:
    """By name, the last value before the overload, the largest one, and the last one."""
    found = {}
    for name in _MEMORY:
        values = resources.values(name)
        before = [value for at_s, value in values if at_s <= plan.begin_s]
        if before:
            found[name] = (before[-1], max(value for _, value in values), values[-1][1])
    return found
