"""Verdicts, and the report of a run."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.image import ImageLayer, ImageRef


class Verdict(enum.StrEnum):
    """Result of a check; ``errored`` means no verdict: the pipeline itself failed."""

    PASSED = "passed"
    FAILED = "failed"
    ERRORED = "errored"
    INCONCLUSIVE = "inconclusive"

    @property
    def exit_code(self) -> int:
        """0 passed, 1 failed, 3 errored, 4 inconclusive."""
        return {"passed": 0, "failed": 1, "errored": 3, "inconclusive": 4}[self.value]

    @classmethod
    def worst(cls, verdicts: Iterable[Verdict]) -> Verdict:
        """The combined verdict: failed over errored over inconclusive over passed; errored when there are none."""
        found = set(verdicts)
        for verdict in (cls.FAILED, cls.ERRORED, cls.INCONCLUSIVE, cls.PASSED):
            if verdict in found:
                return verdict
        return cls.ERRORED


class CaseStatus(enum.StrEnum):
    """How one case ended."""

    PASSED = "passed"
    FAILED = "failed"
    ERRORED = "errored"
    SKIPPED = "skipped"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case of a stage.

    Attributes:
        name: Its id, unique in the stage (a pytest node id without machine-specific paths).
        status: How it ended.
        seconds: Wall time of setup, call and teardown.
        message: Why it failed, errored or was skipped; empty when it passed.
        details: Longer text (traceback, diff).
        properties: Metrics and facts it recorded: numbers (unit in the name), strings, lists of either.
    """

    name: str
    status: CaseStatus
    seconds: float = 0.0
    message: str = ""
    details: str = ""
    properties: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """Result of a stage.

    Attributes:
        name: ``unit``, ``integration``, ``streaming``, ``security`` ...
        verdict: See :func:`verdict_of`.
        seconds: Wall time of the stage.
        cases: In the order they ran.
        message: Why the stage itself errored, if it did.
        metrics: Figures of the whole stage (unit in the name).
        log: The full log of the stage.
        facts: Facts about the server (``version``, ``models``, ``capabilities``, ``double`` ...).
    """

    name: str
    verdict: Verdict
    seconds: float
    cases: tuple[Case, ...] = ()
    message: str = ""
    metrics: Mapping[str, object] = field(default_factory=dict)
    log: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)

    def count(self, status: CaseStatus) -> int:
        """Number of cases that ended with ``status``."""
        return sum(case.status is status for case in self.cases)


def verdict_of(cases: Iterable[Case], *, promised: int = 1) -> tuple[Verdict, str]:
    """Verdict of a set of cases and, unless it is ``passed``, the reason.

    Fewer cases than ``promised`` (skipped cases are counted) are ``errored``: a check that did not run proves nothing.
    """
    cases = tuple(cases)
    failed = sum(case.status is CaseStatus.FAILED for case in cases)
    errored = sum(case.status is CaseStatus.ERRORED for case in cases)
    if failed:
        return Verdict.FAILED, f"{failed} of {len(cases)} cases failed{_reasons(cases, CaseStatus.FAILED)}"
    if errored:
        return Verdict.ERRORED, f"{errored} of {len(cases)} cases could not be judged{_reasons(cases, CaseStatus.ERRORED)}"
    if len(cases) < max(promised, 1):
        return Verdict.ERRORED, f"{len(cases)} cases ran, {max(promised, 1)} were promised"
    if undecided := sum(case.status is CaseStatus.INCONCLUSIVE for case in cases):
        return Verdict.INCONCLUSIVE, f"{undecided} of {len(cases)} cases were measured without a clear result"
    if all(case.status is CaseStatus.SKIPPED for case in cases):
        return Verdict.ERRORED, f"all {len(cases)} cases were skipped"
    return Verdict.PASSED, ""


def _reasons(cases: Iterable[Case], status: CaseStatus) -> str:
    """`` for 2 reasons``; nothing if there is one case with one."""
    from vllm_ci.domain.causes import causes_of  # it imports this module

    bad = [case for case in cases if case.status is status]
    count = len(causes_of(bad))
    return f" for {count} reason{'s' if count > 1 else ''}" if max(count, len(bad)) > 1 else ""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why stages of a run were not run; shown once, at the top of every view.

    Attributes:
        step: Where it happened: ``build``, ``model``, ``server``, or ``interrupted`` for a run that was stopped from outside.
        summary: What happened (``the server did not start``).
        cause: Why, as one line of the program's log, if known.
        explanation: What the cause means.
        change: What to do next.
        log: The full log, relative to the report's folder (``logs/server.log``); empty when there is none.
    """

    step: str
    summary: str
    cause: str = ""
    explanation: str = ""
    change: str = ""
    log: str = ""

    @property
    def line(self) -> str:
        """Summary and cause."""
        return f"{self.summary}: {self.cause}" if self.cause else self.summary

    @property
    def not_run(self) -> str:
        """Message of a stage that was not run because of this problem."""
        return f"not run ({self.summary})" if self.step == INTERRUPTED else f"not run: {self.line}"


INTERRUPTED = "interrupted"


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model of the models' repository that was served.

    Attributes:
        ref: What the configuration says (``chat@champion``).
        name: Its name.
        version: Its version (``v3``).
        digest: Of its manifest.
    """

    ref: str
    name: str
    version: str
    digest: str

    @property
    def identity(self) -> str:
        """``NAME@DIGEST``."""
        return f"{self.name}@{self.digest}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of a run; written as JSON, and the source of the JUnit, CTRF and HTML views.

    Attributes:
        commit: The tested commit; ``None`` for a server that was given by its URL.
        image: The tested image; ``None`` for a server that was given by its URL.
        engine: Name of the engine.
        hardware: Facts about the machine that the server runs on (cpu, memory_bytes, gpus ...), reported by the engine; empty
            when unknown.
        server: Facts reported by the server (version, models ...).
        stages: Results of the stages, in the requested order.
        started_at: ISO 8601, UTC.
        seconds: Wall time of the run.
        timings: Seconds by step (build, model, ready, ...).
        begun: Seconds from the start of the run to the start of a step; reports of earlier versions do not have it.
        layers: Layers of the image, the base first; empty for a server that was given by its URL.
        double: The server is one of our test doubles; such a report never satisfies a gate.
        skipped: Rows of a matrix that this machine cannot serve: name to reason; they do not satisfy a gate either.
        problem: Why some stages were not run; a report with a problem is never ``passed``.
        model: The served model; ``None`` when it is not one of the models' repository.
    """

    commit: Commit | None
    image: ImageRef | None
    engine: str
    hardware: Mapping[str, object] = field(default_factory=dict)
    server: Mapping[str, object] = field(default_factory=dict)
    stages: tuple[StageResult, ...] = ()
    started_at: str = ""
    seconds: float = 0.0
    timings: Mapping[str, float] = field(default_factory=dict)
    begun: Mapping[str, float] = field(default_factory=dict)
    layers: tuple[ImageLayer, ...] = ()
    double: bool = False
    skipped: Mapping[str, str] = field(default_factory=dict)
    problem: Problem | None = None
    model: ServedModel | None = None

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of the stages; ``errored`` without stages, and at best ``errored`` with a problem."""
        verdicts = [stage.verdict for stage in self.stages]
        return Verdict.worst([*verdicts, Verdict.ERRORED] if self.problem is not None else verdicts)

    def is_explained(self, stage: StageResult) -> bool:
        """Whether the problem already says why the stage has no result: views show the problem once, above all stages."""
        return self.problem is not None and stage.message == self.problem.not_run

    def own_message(self, stage: StageResult) -> str:
        """Message of a stage, without repeating the problem."""
        return f"not run ({self.problem.summary})" if self.problem and self.is_explained(stage) else stage.message
