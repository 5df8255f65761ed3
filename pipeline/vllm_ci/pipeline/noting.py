"""What breaks is taken down where it happens, and raised: a pipeline that catches it cannot hide it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from vllm_ci.domain.errors import EngineError, ErroredError
from vllm_ci.pipeline.record import RunRecord, problem_of
from vllm_ci.stages.running import Runner


@dataclass(kw_only=True)
class Notes:
    """Errors of steps, in a record.

    Attributes:
        record: Takes them down.
    """

    record: RunRecord
    _noted: list[BaseException] = field(default_factory=list)

    def has(self, error: BaseException) -> bool:
        """Whether the record says already what the error says."""
        return any(error is each for each in self._noted)

    @contextmanager
    def noting(self, step: str, at: str = "") -> Iterator[None]:
        """Take down what breaks: as the run's problem, or, for another server, in the rows that were announced for it.

        Args:
            step: Which step.
            at: ``@NAME`` of another server.
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
        told = f"{problem.not_run}\n  why: {problem.explanation}\n  do:  {problem.change}"
        for row in rows:
            if row not in self._runner.results:
                self._runner.could_not(row, told)

    @property
    def _runner(self) -> Runner:
        if self.record.runner is None:
            raise EngineError("no stage can run yet", remedy="make a Pipeline first")
        return self.record.runner
