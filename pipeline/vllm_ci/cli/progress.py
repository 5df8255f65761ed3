"""Progress display of a pipeline: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from vllm_ci.domain.events import Emit, Event, Finished, Progress, Started
from vllm_ci.domain.report import CaseStatus, Problem, Report, Verdict
from vllm_ci.report.folder import redacted
from vllm_ci.report.html import seconds

_PROBLEM = {"cause": "bold", "do": "green"}
_LINE_EVERY_S = 30.0
COLOURS = {
    Verdict.PASSED: "green",
    Verdict.FAILED: "bold red",
    Verdict.ERRORED: "bold yellow",
    Verdict.INCONCLUSIVE: "magenta",
}


def console() -> Console:
    """Console on standard error (standard output is for ``--json``); rich honours ``NO_COLOR`` and ``CI``."""
    # A pipe or CI log has no width, and rich would wrap the table at 80 columns.
    return Console(stderr=True, highlight=False, soft_wrap=True, width=None if sys.stderr.isatty() else 120)


@contextmanager
def watch(screen: Console, secrets: Iterable[str] = ()) -> Iterator[Emit]:
    """Show the events of a pipeline for as long as the context lasts, with the values of ``secrets`` removed."""
    hidden = tuple(secret for secret in secrets if secret)
    if not screen.is_terminal:
        yield _without(hidden, _Lines(screen))
        return
    display = _Live(screen)
    with Live(get_renderable=display.table, console=screen, refresh_per_second=8, transient=True, redirect_stdout=False):
        yield _without(hidden, display)


def _without(hidden: tuple[str, ...], emit: Emit) -> Emit:
    """Remove secrets from events: log lines of a server may contain some."""
    if not hidden:
        return emit
    return lambda event: emit(replace(event, detail=redacted(event.detail, hidden)))


class _Lines:
    """Prints a line when a step starts and ends, and its progress at most every half minute."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._begun = time.monotonic()
        self._told: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        clock = f"{now - self._begun:7.1f}s"
        if isinstance(event, Progress):
            if now - self._told.get(event.step, -_LINE_EVERY_S) < _LINE_EVERY_S:
                return
            self._told[event.step] = now
            self._screen.print(Text(f"{clock}  {event.step}: {event.detail}"))
        elif isinstance(event, Started):
            self._screen.print(Text(f"{clock}  {event.step}: started{_suffix(event.detail)}"))
        else:
            self._screen.print(Text(f"{clock}  ").append(_outcome(event)))


class _Live:
    """Prints finished steps, and shows running ones below with their elapsed time."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._running: dict[str, tuple[Started, float, Spinner]] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress):
            if event.step in self._running:
                started, begun, spinner = self._running[event.step]
                self._running[event.step] = (replace(started, detail=event.detail), begun, spinner)
        elif isinstance(event, Started):
            self._running[event.step] = (event, time.monotonic(), Spinner("dots"))
        else:
            self._running.pop(event.step, None)
            self._screen.print(_outcome(event))

    def table(self) -> Table:
        """Table of the running steps."""
        table = Table.grid(padding=(0, 1))
        for event, begun, spinner in list(self._running.values()):  # steps of a build come and go in threads
            table.add_row(
                spinner, event.step, Text(seconds(time.monotonic() - begun), style="cyan"), Text(event.detail, style="dim")
            )
        return table


def _suffix(detail: str) -> str:
    return f" ({detail})" if detail else ""


def _outcome(event: Finished) -> Text:
    colour = COLOURS[event.verdict] if event.verdict else "green"
    mark = "✓" if event.verdict in (None, Verdict.PASSED) else "✗"
    text = Text(f"{mark} ", style=colour).append(f"{event.step:<12}", style="bold").append(f" {seconds(event.seconds):>8}  ")
    if event.verdict:
        text.append(event.verdict.value, style=colour).append("  ")
    return text.append(event.detail.splitlines()[0] if event.detail else "", style="dim")


def table(report: Report) -> Table:
    """Table of stages: verdict, number of cases by status, seconds."""
    made = Table(box=None, header_style="dim", pad_edge=False)
    made.add_column("stage", no_wrap=True)
    made.add_column("verdict", no_wrap=True, min_width=12)
    for status in CaseStatus:
        made.add_column(status.value, justify="right", no_wrap=True)
    made.add_column("seconds", justify="right")
    for stage in report.stages:
        made.add_row(
            stage.name,
            Text(stage.verdict.value, style=COLOURS[stage.verdict]),
            *(str(stage.count(status) or "-") for status in CaseStatus),
            f"{stage.seconds:.1f}",
        )
    for row, reason in report.skipped.items():
        made.add_row(row, Text("skipped", style="dim"), *("-" for _ in CaseStatus), Text(reason, style="dim"))
    return made


def close(screen: Console, report: Report, folder: str) -> None:
    """Print the result of a run: problem, failures, table, digest and report folder."""
    if report.problem is not None:
        _problem(screen, report.problem, folder)
    for stage in report.stages:
        if stage.message and not report.is_explained(stage):
            screen.print(Text(f"\n{stage.name}: {stage.verdict.value}", style=COLOURS[stage.verdict]))
            screen.print(Text(stage.message))
        for case in stage.cases:
            if case.status in (CaseStatus.FAILED, CaseStatus.ERRORED):
                screen.print(
                    Text(f"  ✗ {case.name}", style="red").append(f"  {case.message.splitlines()[0] if case.message else ''}")
                )
    screen.print()
    screen.print(table(report))
    screen.print()
    if report.image:
        screen.print(Text("image    ").append(report.image.reference))
    screen.print(Text("report   ").append(folder))
    screen.print(Text("verdict  ").append(report.verdict.value, style=COLOURS[report.verdict]))


def _problem(screen: Console, problem: Problem, folder: str) -> None:
    """Print the problem above everything else."""
    screen.print()
    screen.print(Text(problem.summary, style="bold red"))
    log = f"{folder}/{problem.log}" if problem.log else ""
    parts = {"cause": problem.cause, "why": problem.explanation, "do": problem.change, "log": log}
    if screen.is_terminal:  # wrap the texts next to the labels
        made = Table.grid(padding=(0, 1))
        for name, text in parts.items():
            if text:
                made.add_row(Text(f"  {name:<6}", style="dim"), Text(text, style=_PROBLEM.get(name, ""), overflow="fold"))
        screen.print(made, soft_wrap=False)
        return
    for name, text in parts.items():
        if text:
            screen.print(Text(f"  {name:<6} {text}"))
