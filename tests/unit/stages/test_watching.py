"""A stage is not silent while it runs: what its programs have written is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from unit.stages.memory import MemoryDirectory
from vllm_ci.domain.events import Event, Progress
from vllm_ci.domain.program import Directory, Program
from vllm_ci.engines.host import HostEngine
from vllm_ci.stages import watching
from vllm_ci.stages.watching import CaseCounts

LINES: list[dict[str, Any]] = [
    {"plan": {"cases": 3, "estimate_s": 85.2}},
    {"running": "a"},
    {"case": {"name": "a", "status": "passed"}},
    {"running": "b"},
    {"case": {"name": "b", "status": "failed"}},
    {"running": "c"},
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def after(count: int) -> str:
    tally = CaseCounts()
    for line in LINES[:count]:
        tally.add(line)
    return str(tally)


def test_the_first_word_is_how_long_it_will_take() -> None:
    assert after(0) == ""
    assert after(1) == "3 cases, about 85 s"


def test_then_it_says_how_many_have_ended_and_what_runs() -> None:
    assert after(4) == "1 of 3 cases; b"
    assert after(6) == "2 of 3 cases, 1 not passed; c"


@pytest.mark.slow
@pytest.mark.anyio
async def test_what_a_program_writes_is_told_before_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(watching, "_INTERVAL_S", 0.05)
    told: list[Event] = []
    text = "\n".join(map(json.dumps, LINES[:3])) + "\n{half a li"
    write = f"""import os, sys, time
open(sys.argv[1] + '/cases.jsonl', 'w').write({text!r})
while not os.path.exists(sys.argv[2]): time.sleep(0.05)"""
    end = tmp_path / "end"
    async with HostEngine() as engine, anyio.create_task_group() as group:
        group.start_soon(watching.watch, engine, ["suite"], "integration", told.append)
        program = Program(name="suite", argv=("python", "-c", write, "{out}", str(end)))
        group.start_soon(engine.run, program)
        with anyio.fail_after(30):
            while not told:
                await anyio.sleep(0.05)
        assert not end.exists(), "the program still runs"
        end.touch()
        await anyio.sleep(0.2)
        group.cancel_scope.cancel()
    assert told == [Progress(step="integration", detail="1 of 3 cases; a")]


@pytest.mark.slow
@pytest.mark.anyio
async def test_an_engine_that_cannot_tell_and_a_file_that_is_no_report_are_no_trouble() -> None:
    class Mute:
        pass

    class Odd:
        def so_far(self, program: str) -> Directory | None:
            return MemoryDirectory({"cases.jsonl": b"[1]\n\xff\n5\n"}) if program == "there" else None

    told: list[Event] = []
    with anyio.move_on_after(1.5):
        await watching.watch(Odd(), ["there", "absent"], "s", told.append)  # type: ignore[arg-type]
    await watching.watch(Mute(), ["there"], "s", told.append)  # type: ignore[arg-type]
    assert told == []
