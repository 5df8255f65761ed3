"""A driver that is killed with SIGKILL at any moment leaves a state that serves; the next one completes it or goes back."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path

import anyio
import pytest

from standin.deploying import (
    ANALYSIS,
    NEW,
    OLD,
    STRATEGIES,
    Killed,
    KilledJournal,
    KilledTarget,
    assert_serves,
    deployed,
    in_a_process,
    served,
    settled,
    wanted,
)
from vllm_ci.deploy import verbs
from vllm_ci.deploy.journal import Journal
from vllm_ci.deploy.rules import Rules
from vllm_ci.domain.errors import UsageError
from vllm_ci.targets.memory import Behaviour, MemoryTarget

pytestmark = pytest.mark.slow

RULES = Rules(analysis=ANALYSIS)


@pytest.fixture(autouse=True)
def _without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed loses nothing that the kernel has."""
    monkeypatch.setattr("os.fsync", lambda _: None)


def killed_at(folder: Path, moment: int, strategy: str, faults: dict[str, Behaviour]) -> bool:
    """Deploy in a process that kills itself at a moment; false when it ended before."""

    async def work() -> None:
        await served(folder, faults=faults)
        killed = Killed(moment)
        target = KilledTarget(MemoryTarget(folder / "target"), killed)
        await deployed(target, KilledJournal(folder, killed), wanted(STRATEGIES[strategy], keep_s=0))

    return in_a_process(work) != 0


async def resumed(folder: Path, strategy: str, *, abort: bool) -> str:
    """What serves after the next command, and nothing else."""
    target, journal = MemoryTarget(folder / "target"), Journal(folder)
    await assert_serves(target)
    if abort:
        with contextlib.suppress(UsageError):  # not begun yet, or live already
            await verbs.decide(target, journal, "production", "abort", RULES)
    elif await verbs.begun(target, journal, wanted(STRATEGIES[strategy])):
        await deployed(target, journal, wanted(STRATEGIES[strategy]))
    await assert_serves(target)
    assert target.state.lost == 0
    current = await target.current()
    return next((name for name, each in (("old", OLD), ("new", NEW)) if settled(current, each.name)), f"neither: {current}")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("then", ["run again", "abort"])
@pytest.mark.parametrize("release", ["good", "bad"])
def test_killed_at_every_moment(strategy: str, then: str, release: str, tmp_path: Path) -> None:
    faults = {NEW.name: Behaviour(errors=0.5)} if release == "bad" else {}
    ends: list[str] = []
    while killed_at(tmp_path / str(len(ends)), len(ends), strategy, faults):
        ends.append(anyio.run(partial(resumed, tmp_path / str(len(ends)), strategy, abort=then == "abort")))
    assert len(ends) > 8, "it was killed at many moments"
    if strategy == "rollback" and then == "run again":  # nothing judges it
        assert set(ends) == {"new"}
    elif release == "bad":
        assert set(ends) <= {"old", "new"} if strategy == "rollback" else set(ends) == {"old"}
    else:
        assert set(ends) == ({"old", "new"} if then == "abort" else {"new"})
