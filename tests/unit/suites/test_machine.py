"""When a machine counts as starved of processor time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from vllm_ci.suites import machine
from vllm_ci.suites.machine import LATE_S, QUEUED, STALLED, STOLEN, Seen, Watch


def test_a_quiet_machine_is_not_starved() -> None:
    assert Seen(stalled=0.01, queue=0.3, late_s=0.002).starved == ""
    assert Seen(stalled=None, queue=None, late_s=0.0).starved == ""


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (Seen(stalled=STALLED, queue=0.0, late_s=0.0), "waited for a processor during 10%"),
        (Seen(stalled=0.0, queue=QUEUED, late_s=0.0), "runnable for each processor"),
        (Seen(stalled=0.0, queue=0.0, late_s=LATE_S), "50 ms late"),
        (Seen(stalled=0.0, queue=0.0, late_s=0.0, stolen=STOLEN), "the host gave 10%"),
    ],
)
def test_a_starved_machine_says_why(seen: Seen, reason: str) -> None:
    assert reason in seen.starved


def test_the_watch_sees_time_that_the_host_took(monkeypatch: pytest.MonkeyPatch) -> None:
    stolen = iter([0.0, 1000.0])
    monkeypatch.setattr(machine, "_stolen_s", lambda: next(stolen))
    with Watch() as watch:
        time.sleep(0.05)
        assert watch.seen.stolen > STOLEN


def test_a_kernel_that_tells_nothing_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_PRESSURE", "_LOAD", "_STAT"):
        monkeypatch.setattr(machine, name, Path("/nonexistent"))
    with Watch() as watch:
        time.sleep(0.03)
        seen = watch.seen
    assert (seen.stalled, seen.queue, seen.stolen) == (None, None, 0.0)
