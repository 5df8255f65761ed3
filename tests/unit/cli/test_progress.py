from __future__ import annotations

import io
import os
import re
import subprocess
import sys

import pytest
from rich.console import Console

from vllm_ci.cli import progress
from vllm_ci.domain.events import Emit, Finished, Progress, Started
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.report import Case, CaseStatus, Report, ServedModel, StageResult, Verdict


def shown(*, terminal: bool) -> tuple[Console, io.StringIO]:
    output = io.StringIO()
    return Console(file=output, force_terminal=terminal, width=160, highlight=False, soft_wrap=True), output


def story(emit: Emit) -> None:
    emit(Started(step="build", detail="image of abc"))
    emit(Finished(step="build", seconds=1.5, detail="sha256:123"))
    emit(Started(step="unit"))
    emit(Finished(step="unit", seconds=0.2, detail="1 of 3 cases failed\nand more", verdict=Verdict.FAILED))


def test_without_a_terminal_there_is_a_plain_line_for_each_start_and_end() -> None:
    screen, output = shown(terminal=False)
    with progress.watch(screen) as emit:
        story(emit)
    lines = output.getvalue().splitlines()
    assert len(lines) == 4
    assert "build: started (image of abc)" in lines[0]
    assert "✓ build" in lines[1]
    assert "1.5 s" in lines[1]
    assert "✗ unit" in lines[3]
    assert "failed" in lines[3]
    assert "and more" not in output.getvalue()
    assert "\033" not in output.getvalue()


def test_without_a_terminal_progress_is_a_line_every_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, output = shown(terminal=False)
    now = 0.0
    monkeypatch.setattr("vllm_ci.cli.progress.time.monotonic", lambda: now)
    with progress.watch(screen) as emit:
        emit(Started(step="integration"))
        for count in range(70):
            now = float(count)
            emit(Progress(step="integration", detail=f"{count} of 140 cases"))
    told = [line.partition("integration: ")[2] for line in output.getvalue().splitlines()[1:]]
    assert told == ["0 of 140 cases", "30 of 140 cases", "60 of 140 cases"]


def test_on_a_terminal_progress_stands_beside_the_running_step() -> None:
    screen, output = shown(terminal=True)
    with progress.watch(screen) as emit:
        emit(Started(step="integration"))
        emit(Progress(step="integration", detail="7 of 140 cases"))
        assert isinstance(emit, progress._Live)
        screen.print(emit.table())
        emit(Progress(step="gone", detail="nobody waits for it"))
    assert "7 of 140 cases" in output.getvalue()


def test_on_a_terminal_the_running_step_is_shown_with_its_time_and_then_makes_way() -> None:
    screen, output = shown(terminal=True)
    with progress.watch(screen) as emit:
        emit(Started(step="server", detail="tiny"))
        assert isinstance(emit, progress._Live)
        screen.print(emit.table())
        emit(Finished(step="server", seconds=20.0))
        assert emit.table().row_count == 0
    assert "server" in output.getvalue()
    assert "tiny" in output.getvalue()


def test_the_running_step_is_shown_with_the_time_that_it_usually_takes() -> None:
    screen, output = shown(terminal=True)
    with progress.watch(screen, usual={"server": 22.0}) as emit:
        emit(Started(step="server", detail="tiny"))
        emit(Started(step="unit"))
        assert isinstance(emit, progress._Live)
        screen.print(emit.table())
    server, unit = (next(line for line in output.getvalue().splitlines() if name in line) for name in ("server", "unit"))
    assert "of usually 22.0 s" in server
    assert "usually" not in unit
    screen, output = shown(terminal=False)
    with progress.watch(screen, usual={"build": 0.468}) as emit:
        story(emit)
    assert "build: started (image of abc), usually 468 ms" in output.getvalue()


def test_a_terminal_that_cannot_move_its_cursor_has_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    screen, output = shown(terminal=True)
    with progress.watch(screen) as emit:
        story(emit)
    assert "build: started (image of abc)" in output.getvalue().splitlines()[0]
    assert not re.search(r"\x1b\[[^m]*[A-HJKhl]", output.getvalue()), "no cursor is moved, no line is erased"


def test_the_end_has_failures_table_digest_folder_and_verdict() -> None:
    screen, output = shown(terminal=False)
    cases = (Case(name="a::fails", status=CaseStatus.FAILED, message="why\nmore"), Case(name="b", status=CaseStatus.PASSED))
    stage = StageResult(name="unit", verdict=Verdict.FAILED, seconds=2.0, cases=cases, message="1 of 2 cases failed")
    image = ImageRef(repository="name", digest="sha256:" + "0" * 64)
    progress.close(screen, Report(commit=None, image=image, engine="host", stages=(stage,)), "/runs/1")
    text = output.getvalue()
    cause = "✗ why (1 case)\n    unit: a::fails\n"
    for expected in (cause, "stage", "unit", "failed", image.reference, "/runs/1", "verdict  failed"):
        assert expected in text, expected


def test_the_folder_is_a_link_to_the_page_on_a_terminal_and_text_elsewhere() -> None:
    report = Report(commit=None, image=None, engine="host")
    for terminal in (True, False):
        screen, output = shown(terminal=terminal)
        progress.close(screen, report, "/runs/1 x")
        assert bool(re.search(r"\x1b\]8;[^;]*;file:///runs/1%20x/report\.html\x1b\\/runs/1 x", output.getvalue())) == terminal
        assert ("report   /runs/1 x\n" in output.getvalue()) != terminal


def test_the_slowest_cases_are_shown_when_asked_for() -> None:
    screen, output = shown(terminal=False)
    cases = tuple(Case(name=f"streaming/a.py::test_{name}", status=CaseStatus.PASSED, seconds=name) for name in range(5))
    stage = StageResult(name="streaming", verdict=Verdict.PASSED, seconds=12.0, cases=cases)
    own = StageResult(
        name="smoke", verdict=Verdict.PASSED, seconds=4.5, cases=(Case(name="one", status=CaseStatus.PASSED, seconds=3.5),)
    )
    report = Report(commit=None, image=None, engine="host", stages=(stage, own))
    progress.close(screen, report, "/runs/1", durations=2)
    text = output.getvalue()
    assert "    4.00 s  streaming/a.py::test_4\n    3.50 s  smoke: one\n" in text
    assert "test_3" not in text
    assert "streaming: 10.0 s in 5 cases; the stage took 12.0 s\n" in text
    progress.close(screen, report, "/runs/1")
    assert output.getvalue().count("test_4") == 1


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_neither_the_run_nor_its_json() -> None:
    program = (
        "from vllm_ci.cli import progress\n"
        "from vllm_ci.domain.events import Started\n"
        "screen = progress.console()\n"
        "with progress.watch(screen) as emit:\n"
        "    for number in range(2000):\n"
        "        emit(Started(step=f'step {number}', detail='x' * 200))\n"
        "print('{}')\n"
    )
    reading, writing = os.pipe()
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=writing, text=True) as process:
        os.close(writing)
        os.read(reading, 100)
        os.close(reading)
        output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "{}\n")


def test_nothing_that_others_wrote_is_obeyed_by_the_terminal_or_read_as_markup() -> None:
    escape = "[/bold]:smile:\x1b[31m"
    cases = tuple(
        Case(name=f"{status}{escape}", status=status, message=f"wrong {escape}", seconds=1.0)
        for status in (CaseStatus.FAILED, CaseStatus.ERRORED, CaseStatus.SKIPPED)
    )
    stage = StageResult(name=f"mine{escape}", verdict=Verdict.FAILED, seconds=1, cases=cases, message=f"said {escape}")
    report = Report(
        commit=None,
        image=ImageRef(repository=escape, digest="sha256:" + "1" * 64),
        engine="host",
        stages=(stage,),
        skipped={f"row{escape}": escape},
        model=ServedModel(ref=escape, name=escape, version="v1", digest="d"),
    )
    screen = progress.console()
    screen.file = output = io.StringIO()
    progress.close(screen, report, "folder", durations=3)
    assert "\x1b" not in output.getvalue()
    assert output.getvalue().count(r"[/bold]:smile:\x1b[31m") >= 8
