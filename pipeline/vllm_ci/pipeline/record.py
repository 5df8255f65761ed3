"""The results of a run so far: they become a report when the run ends or is stopped."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import anyio

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import EngineError, ErroredError
from vllm_ci.domain.events import Emit, Event, Finished, Started
from vllm_ci.domain.image import ImageLayer, ImageRef
from vllm_ci.domain.program import Directory, Service
from vllm_ci.domain.project import Project
from vllm_ci.domain.report import INTERRUPTED, Problem, Report, ServedModel, StageResult, Verdict
from vllm_ci.domain.variant import Matrix
from vllm_ci.pipeline import matrix as matrices
from vllm_ci.stages import is_exclusive
from vllm_ci.stages.running import Runner

SUMMARIES = {
    "build": "the image could not be built",
    "model": "the model could not be created",
    "server": "the server did not start",
    "engine": "the engine could not be used",
    "pipeline": "the pipeline code raised an error",
}
_LOG_WITHIN_S = 2.0
_LONGEST_DETAIL = 100  # for one line of progress; the full text is shown at the end
# A program gets five seconds to terminate, and CI systems give the whole run about ten.
_STOP_WITHIN_S = 6.0


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A report and the files behind it.

    Attributes:
        report: The results.
        outputs: Output directories of the programs, by stage.
        logs: Logs by name (``build``, ``server``).
    """

    report: Report
    outputs: Mapping[str, tuple[Directory, ...]] = field(default_factory=dict)
    logs: Mapping[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class RunRecord:
    """Records the results of a run and forwards its events.

    Attributes:
        emit: Called with every event.
        engine: Name of the engine.
        commit: The commit that is tested, if known.
        rows: Expected results, in order.
        image: The image, once it is built.
        layers: Layers of the image, once it is built.
        model: The served model, if it is one of the models' repository.
        hardware: Facts about the machine, once the engine has reported them.
        runner: The runner, once stages can run.
        logs: Logs by name.
        services: Running services, by the name of their log.
        skipped: Matrix rows that cannot run, with the reason.
        problem: What prevented stages from running.
        double: The engine is a test double.
        added: Results that no stage created, by name.
    """

    emit: Emit
    engine: str = ""
    commit: Commit | None = None
    rows: list[str] = field(default_factory=list)
    image: ImageRef | None = None
    layers: tuple[ImageLayer, ...] = ()
    model: ServedModel | None = None
    hardware: Mapping[str, object] = field(default_factory=dict)
    runner: Runner | None = None
    logs: dict[str, str] = field(default_factory=dict)
    services: dict[str, Service] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    problem: Problem | None = None
    double: bool = False
    added: dict[str, StageResult] = field(default_factory=dict)
    _seconds: dict[str, float] = field(default_factory=dict)
    _running: dict[str, float] = field(default_factory=dict)
    _steps: dict[str, float] = field(default_factory=dict)
    _begun: float = field(default_factory=time.monotonic)
    _started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def __call__(self, event: Event) -> None:
        """Record start and duration of every step, and forward the event."""
        if isinstance(event, Started):
            self._running[event.step] = now = time.monotonic()
            self._steps[event.step] = round(now - self._begun, 3)
        elif isinstance(event, Finished):
            self._running.pop(event.step, None)
            self._seconds[event.step] = round(event.seconds, 3)
        self.emit(event)

    def failed(self, step: str, error: ErroredError) -> None:
        """Record the failure of a step that other stages need: the first one is the run's problem."""
        if error.log:
            self.logs[step] = error.log
        problem = problem_of(step, error)
        begun = self._running.get(step)
        seconds = time.monotonic() - begun if begun is not None else 0.0
        detail = textwrap.shorten(problem.cause or problem.summary, _LONGEST_DETAIL, placeholder=" …")
        self(Finished(step=step, seconds=seconds, detail=detail, verdict=Verdict.ERRORED))
        self.problem = self.problem or problem

    def add(self, result: StageResult) -> None:
        """Record a result that no stage created.

        Args:
            result: The result; its name must not be that of a stage.
        """
        self.rows += [result.name] if result.name not in self.rows else []
        self.added[result.name] = result

    async def stop(self, why: str) -> RunResult:
        """Stop the running stages, keep their results, and return the results so far.

        Args:
            why: The reason, as in ``interrupted by SIGTERM``.
        """
        if self.runner is not None:
            self.runner.stop(why)
            with anyio.move_on_after(_STOP_WITHIN_S):
                await self.runner.idle()
        for name, service in list(self.services.items()):
            with anyio.move_on_after(_LOG_WITHIN_S):
                try:
                    self.logs[name] = await service.log()
                except EngineError as error:
                    self.logs[name] = f"(the log cannot be read: {error})"
        return self.interrupted(why)

    def interrupted(self, why: str) -> RunResult:
        """What is known when the run was stopped from outside.

        Args:
            why: Who wanted it, as in ``interrupted by SIGTERM``.
        """
        self.problem = self.problem or Problem(
            step=INTERRUPTED,
            summary=why,
            explanation="the run was stopped from outside before it finished; its results so far are below",
            change="run it again; if a CI time limit stopped it, raise that limit or run fewer stages (--stage NAME)",
        )
        return self.run()

    def run(self) -> RunResult:
        """The results so far; rows without a result are errored, with a reason."""
        results = {**(self.runner.results if self.runner is not None else {}), **self.added}
        for row in self.rows:
            if row not in results and row not in self.skipped:
                message = self.problem.not_run if self.problem else "not run"
                results[row] = StageResult(name=row, verdict=Verdict.ERRORED, seconds=0.0, message=message)
        stages = tuple(sorted(results.values(), key=lambda result: _place(result.name, self.rows)))
        server = {key: value for result in stages for key, value in result.facts.items()}
        report = Report(
            commit=self.commit,
            image=self.image,
            engine=self.engine,
            hardware=self.hardware,
            server=server,
            stages=stages,
            started_at=self._started_at,
            seconds=round(time.monotonic() - self._begun, 3),
            timings=dict(self._seconds),
            begun=dict(self._steps),
            layers=self.layers,
            double=self.double or bool(server.get("double")),
            skipped=dict(self.skipped),
            problem=self.problem,
            model=self.model,
        )
        return RunResult(report=report, outputs=dict(self.runner.outputs) if self.runner else {}, logs=dict(self.logs))


def problem_of(step: str, error: ErroredError) -> Problem:
    """Describe an error that prevented stages from running."""
    summary = SUMMARIES.get(step.partition("@")[0], "the pipeline could not continue")
    cause = error.message.removeprefix(summary).removeprefix(": ")
    return Problem(
        step=step,
        summary=summary,
        cause=cause,
        explanation=error.why,
        change=error.remedy,
        log=f"logs/{step}.log" if error.log else "",
    )


def rows(project: Project, matrix: Matrix | None = None) -> list[str]:
    """Names of the results that a run of the default pipeline will have."""
    measured = matrices.measures(project, matrix)
    names = [spec.name for spec in project.stages if not (measured and is_exclusive(spec))]
    variants = matrices.servers(project, matrix)
    return [
        *names,
        *(f"{name}@{variant.name}" for variant in variants for name in matrices.stages(project, matrix, variant)),
    ]


def _place(row: str, rows: Sequence[str]) -> tuple[bool, int]:
    """Sort key: stages in their declared order, then the rows of named servers."""
    return "@" in row, rows.index(row) if row in rows else len(rows)
