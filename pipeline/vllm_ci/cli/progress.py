"""Progress display of a pipeline: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.style import Style
from rich.table import Table
from rich.text import Text

from vllm_ci.cli.causes import cause_lines, skip_lines
from vllm_ci.cli.ci_log import stream
from vllm_ci.cli.durations import slowest
from vllm_ci.domain.causes import Cause, causes_of_report, headline, skips_of
from vllm_ci.domain.events import Emit, Event, Finished, Progress, Started
from vllm_ci.domain.plain import visible
from vllm_ci.domain.report import CaseStatus, Problem, Report, Verdict, verdict_of
from vllm_ci.performance import matrix
from vllm_ci.report.html import seconds
from vllm_ci.report.redaction import of_text

_PROBLEM = {"cause": "bold", "do": "green"}
_LINE_EVERY_S = 30.0
_ROWS = 50
_MIB = 1 << 20
_FEWEST_ROWS = 6
COLOURS = {
    Verdict.PASSED: "green",
    Verdict.FAILED: "bold red",
    Verdict.ERRORED: "bold yellow",
    Verdict.INCONCLUSIVE: "magenta",
}


class _Screen(Console):
    """A console whose reader may go away (``2>&1 | head``): the run goes on, for its report, its JSON and its exit code."""

    def on_broken_pipe(self) -> None:
        """Write nothing more. rich's own version would close standard output and end the program."""
        self.quiet = True
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stderr.fileno())
            os.close(nowhere)


def console() -> Console:
    """Console on standard error (standard output is for ``--json``); rich honours ``NO_COLOR`` and ``CI``."""
    log = stream()
    # Some runners give jobs a terminal, and keep what is written to it: a display that moves the cursor would be in the log.
    terminal = log is None and sys.stderr.isatty()
    # A pipe or CI log has no width, and rich would wrap the table at 80 columns.
    width = None if terminal else 120
    # Names of models, branches and cases are no markup: `[/]` in one would end the command.
    return _Screen(
        file=log,
        stderr=True,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=True,
        width=width,
        force_terminal=None if log is None else False,
    )


@contextmanager
def watch(screen: Console, secrets: Iterable[str] = (), usual: Mapping[str, float] = MappingProxyType({})) -> Iterator[Emit]:
    """Show the events of a pipeline for as long as the context lasts.

    Args:
        screen: Where to. A terminal that cannot move its cursor (``TERM=dumb``, as for screen readers) gets plain lines.
        secrets: Values that are removed.
        usual: Seconds that a step usually takes, by its name.
    """
    hidden = tuple(secret for secret in secrets if secret)
    if not screen.is_terminal or screen.is_dumb_terminal:
        yield _without(hidden, _Lines(screen, usual))
        return
    display = _Live(screen, usual)
    with Live(get_renderable=display.table, console=screen, refresh_per_second=8, transient=True, redirect_stdout=False):
        yield _without(hidden, display)


def _without(hidden: tuple[str, ...], emit: Emit) -> Emit:
    """Remove secrets from events: log lines of a server may contain some."""
    if not hidden:
        return emit
    return lambda event: emit(replace(event, detail=of_text(event.detail, hidden)))


class _Lines:
    """Prints a line when a step starts and ends, and its progress at most every half minute."""

    def __init__(self, screen: Console, usual: Mapping[str, float]) -> None:
        self._screen = screen
        self._usual = usual
        self._begun = time.monotonic()
        self._told: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        clock = f"{now - self._begun:7.1f}s"
        if isinstance(event, Progress):
            if now - self._told.get(event.step, -_LINE_EVERY_S) < _LINE_EVERY_S:
                return
            self._told[event.step] = now
            self._screen.print(Text(f"{clock}  {event.step}: {visible(event.detail)}"))
        elif isinstance(event, Started):
            usually = f", usually {seconds(self._usual[event.step])}" if event.step in self._usual else ""
            self._screen.print(Text(f"{clock}  {event.step}: started{_suffix(event.detail)}{usually}"))
        else:
            self._screen.print(Text(f"{clock}  ").append(_outcome(event)))


class _Live:
    """Prints finished steps, and shows running ones below with their elapsed and their usual time."""

    def __init__(self, screen: Console, usual: Mapping[str, float]) -> None:
        self._screen = screen
        self._usual = usual
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
                spinner,
                event.step,
                self._clock(event.step, time.monotonic() - begun),
                Text(visible(event.detail), style="dim"),
            )
        return table

    def _clock(self, step: str, elapsed: float) -> Text:
        usually = f" of usually {seconds(self._usual[step])}" if step in self._usual else ""
        return Text(seconds(elapsed), style="cyan").append(usually, style="dim")


def _suffix(detail: str) -> str:
    return f" ({visible(detail)})" if detail else ""


def _outcome(event: Finished) -> Text:
    colour = COLOURS[event.verdict] if event.verdict else "green"
    mark = "✓" if event.verdict in (None, Verdict.PASSED) else "✗"
    text = Text(f"{mark} ", style=colour).append(f"{event.step:<12}", style="bold").append(f" {seconds(event.seconds):>8}  ")
    if event.verdict:
        text.append(event.verdict.value, style=colour).append("  ")
    return text.append(visible(event.detail.splitlines()[0]) if event.detail else "", style="dim")


def table(report: Report) -> Table:
    """Table of stages: verdict, number of cases by status, seconds."""
    made = Table(box=None, header_style="dim", pad_edge=False)
    made.add_column("stage", no_wrap=True)
    made.add_column("verdict", no_wrap=True)
    for status in CaseStatus:
        made.add_column(status.value, justify="right", no_wrap=True)
    made.add_column("seconds", justify="right")
    for stage in report.stages:
        made.add_row(
            visible(stage.name),
            Text(stage.verdict.value, style=COLOURS[stage.verdict]),
            *(str(stage.count(status) or "-") for status in CaseStatus),
            f"{stage.seconds:.1f}",
        )
    for row, reason in report.skipped.items():
        made.add_row(visible(row), Text("skipped", style="dim"), *("-" for _ in CaseStatus), Text(visible(reason), style="dim"))
    return made


def measured(rows: Sequence[matrix.Row]) -> Table:
    """Table of the servers that were measured side by side."""

    def number(value: float | None, form: str = ".1f", *, per: float = 1.0) -> str:
        return "-" if value is None else format(value / per, form)

    made = Table(box=None, header_style="dim", pad_edge=False)
    made.add_column("server", no_wrap=True)
    for name in ("tokens/s", "ttft ms", "tpot ms", "memory MiB", "GPU MiB", "same answers", "same prefix"):
        made.add_column(name, justify="right")
    for row in rows:
        figures = (row.output_tokens_per_s, row.ttft_ms, row.tpot_ms)
        memory = (number(row.memory_bytes, ".0f", per=_MIB), number(row.gpu_bytes, ".0f", per=_MIB))
        shares = (number(row.same_answers, ".0%"), number(row.same_prefix, ".0%"))
        made.add_row(Text(visible(row.server), style=COLOURS[row.verdict]), *map(number, figures), *memory, *shares)
    return made


def close(screen: Console, report: Report, folder: str, *, durations: int = 0) -> None:
    """Print the result of a run: problem, causes, skipped cases, table, digest and report folder, on one screen if possible.

    Args:
        screen: Where to.
        report: The result.
        folder: Where the report is.
        durations: Number of slowest cases to print as well.
    """
    width = screen.width if screen.is_terminal else 0
    causes = causes_of_report(report)
    skips = skip_lines(skips_of(report.stages), width=width)
    if report.problem is not None:
        _problem(screen, report.problem, folder)
    # Below the causes: the table with its head, image, report and verdict, and four empty lines.
    rows = (screen.height if screen.is_terminal else _ROWS) - len(skips) - len(report.stages) - len(report.skipped) - 8
    messages = _messages(report, causes, rows=max(rows // 2, _FEWEST_ROWS), folder=folder)
    lines = cause_lines(causes, rows=max(rows - len(messages) - 1, _FEWEST_ROWS), width=width)
    counted = headline(causes, sum(len(stage.cases) for stage in report.stages))
    slow = [Text(visible(line)) for line in slowest(report, durations)]
    blocks = (messages, [Text(f"{counted}:", style="bold"), *lines] if counted else lines, skips, slow)
    for block in blocks:
        for line in [Text(), *block] if block else []:
            screen.print(line)
    screen.print()
    screen.print(table(report))
    screen.print()
    if servers := matrix.rows(report.stages):
        screen.print(measured(servers))
        screen.print()
    if report.image:
        screen.print(Text("image    ").append(visible(report.image.reference)))
    if report.model:
        screen.print(Text("model    ").append(visible(f"{report.model.name}@{report.model.version} {report.model.digest}")))
    page = Style(link=Path(folder, "report.html").absolute().as_uri())  # written on terminals only
    screen.print(Text("report   ").append(folder, style=page))
    screen.print(Text("verdict  ").append(report.verdict.value, style=COLOURS[report.verdict]))


def _messages(report: Report, causes: Sequence[Cause], *, rows: int, folder: str) -> list[Text]:
    """What stages say beyond the number of their cases: a server died, a program was killed, cases are missing."""
    lines: list[Text] = []
    titles = {cause.title for cause in causes}
    for stage in report.stages:
        counted = verdict_of(stage.cases)[1] if stage.cases else ""
        # Reports of earlier versions do not have the number of reasons at the end of that line.
        said = [line for line in visible(stage.message).splitlines() if not counted.startswith(line)]
        if not report.is_explained(stage) and (len(said) > 1 or (said and said[0] not in titles)):
            lines.append(Text(f"{visible(stage.name)}: {stage.verdict.value}", style=COLOURS[stage.verdict]))
            lines += map(Text, said)
    if len(lines) > rows:
        rest = f"and {len(lines) - rows + 1} more lines: {folder}/report.html"
        lines = [*lines[: rows - 1], Text(rest, style="dim")]
    return lines


def _problem(screen: Console, problem: Problem, folder: str) -> None:
    """Print the problem above everything else."""
    screen.print()
    screen.print(Text(visible(problem.summary), style="bold red"))
    log = f"{folder}/{problem.log}" if problem.log else ""
    parts = {"cause": visible(problem.cause), "why": visible(problem.explanation), "do": visible(problem.change), "log": log}
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
