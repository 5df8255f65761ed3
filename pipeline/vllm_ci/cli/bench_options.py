"""What the options of ``vllm-ci bench`` mean: durations, and the setting that they make together."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vllm_ci.domain.errors import UsageError

if TYPE_CHECKING:
    from vllm_ci.performance.measuring import Setting
    from vllm_ci.performance.workload import Requests

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|)")
_SECONDS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST_S = 7 * 24 * 3600
_WARM_UP_S = 5.0


def duration(value: str) -> float:
    """Seconds of a duration: ``90``, ``90s``, ``10m``, ``1h``. The type of options.

    Raises:
        click.BadParameter: It is none, or longer than 7 days.
    """
    found = _DURATION.fullmatch(value.strip())
    seconds = float(found[1]) * _SECONDS[found[2]] if found else math.nan
    if not 0 <= seconds <= _LONGEST_S:
        raise click.BadParameter(f"{value!r} is not a duration of up to 7 days; use 90, 90s, 10m or 1h")
    return seconds


def setting_of(given: dict[str, Any]) -> Setting:
    """The setting that options make.

    Raises:
        UsageError: They contradict one another.
    """
    from vllm_ci.performance.arrivals import Pattern
    from vllm_ci.performance.figures import Objective
    from vllm_ci.performance.measuring import Setting

    rate, concurrency, lasts, warm_up = (given[name] for name in ("rate", "concurrency", "duration", "warm_up"))
    if rate and concurrency:
        raise UsageError("--rate and --concurrency cannot be used together", remedy="use one of them")
    if not lasts:
        raise UsageError("--duration must be more than 0", remedy="use 90, 90s, 10m or 1h")
    warm_up = min(_WARM_UP_S, lasts / 10) if warm_up is None else warm_up
    if warm_up >= lasts:
        raise UsageError(f"the warm-up of {warm_up:g} s leaves nothing of {lasts:g} s", remedy="raise --duration")
    return Setting(
        workload=_workload(given["workload"], given["workload_file"], paced=bool(rate or concurrency)),
        rate=rate or 0.0,
        concurrency=concurrency or 8,
        duration_s=lasts,
        warm_up_s=warm_up,
        pattern=Pattern(given["arrivals"]),
        burstiness=given["burstiness"],
        seed=given["seed"],
        objective=Objective(ttft_ms=given["ttft"], tpot_ms=given["tpot"], e2e_ms=given["e2e"]),
        real_history=given["real_history"],
    )


def _workload(name: str | None, file: Path | None, *, paced: bool) -> Requests:
    from vllm_ci.performance.workload import WORKLOADS
    from vllm_ci.performance.workload_file import load

    if file is None:
        return WORKLOADS[name or "chat"]
    if name:
        raise UsageError("--workload and --workload-file cannot be used together", remedy="use one of them")
    found = load(file)
    return dataclasses.replace(found, timed=found.timed and not paced)
