"""Record errors where they happen, and raise them: a pipeline that catches an error cannot hide it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from vllm_ci.domain.errors import EngineError, ErroredError
from vllm_ci.pipeline.record import RunRecord, problem_of
from vllm_ci.stages.running import Runner


@dataclass(kw_only=True)
class Notes:
    """Adds errors of steps to a record.

    Attributes:
        record: The record of the run.
    """

    record: RunRecord
    _noted: list[BaseException] = field(default_factory=list)

    def has(self, error: BaseException) -> bool:
        """Whether the error is in the record already."""
        return any(error is each for each in self._noted)

    @contextmanager
    def noting(self, step: str, at: str = "") -> Iterator[None]:
        """Record an error: as the run's problem or, for a named server, in the rows declared for it.

        Args:
            step: Name of the step.
            at: ``@NAME`` of a named server.
        """
        try:
            yield
        except ErroredError as error:
            self._noted.append(error)
            self._broke(f"{step}{at}", error, [row for row in self.record.rows if at and row.endswith(at)])
            raise

    def _broke(self, step: str, error: ErroredError, rows: Sequence[str]) -> None:
        if not rows:
            self.record.failed(step, error)
            return
        before = self.record.problem
        self.record.failed(step, error)
        self.record.problem = before
        problem = problem_of(step, error)
        message = f"{problem.not_run}\n  why: {problem.explanation}\n  do:  {problem.change}"
        for row in rows:
            if row not in self._runner.results:
                self._runner.could_not(row, message)

    @property
    def _runner(self) -> Runner:
        if self.record.runner is None:
            raise EngineError("no stage can run yet", remedy="create a Pipeline first")
        return self.record.runner
