"""Running a stage on an engine, so that whatever happens to it there is a result that says so."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import anyio

from vllm_ci.domain.errors import UsageError, VllmCiError
from vllm_ci.domain.events import Emit, Finished, Started
from vllm_ci.domain.program import Directory, Outcome, Service
from vllm_ci.domain.report import StageResult, Verdict
from vllm_ci.engine import Engine
from vllm_ci.stages import STAGES
from vllm_ci.stages.stage import StageContext
from vllm_ci.stages.watching import watch

_WATCH_INTERVAL_S = 1.0
_LAST_WORDS_S = 3.0
_TAIL_LINES = 25


@dataclass(kw_only=True)
class Runner:
    """Runs stages one by one and keeps what they leave.

    Attributes:
        engine: Where their programs run.
        emit: Is told of each start and end.
        results: By stage.
        outputs: Directories that the programs of each stage wrote, by stage.
    """

    engine: Engine
    emit: Emit
    results: dict[str, StageResult] = field(default_factory=dict)
    outputs: dict[str, tuple[Directory, ...]] = field(default_factory=dict)

    async def run(self, context: StageContext, service: Service | None = None, *, row: str = "") -> None:
        """Run the stage of ``context``; a server that dies meanwhile ends it, and its verdict is then ``errored``.

        Args:
            context: What is judged.
            service: The server that has to live meanwhile.
            row: Name of the result, by default the stage's.
        """
        name = row or context.spec.name
        self.emit(Started(step=name))
        begun = time.monotonic()
        if service is not None and not await service.alive():
            result = await _without_server(name, service, "was gone before the stage began")
        else:
            result = replace(await self._guarded(context, service, name), name=name)
        self.results[name] = result
        self.emit(Finished(step=name, seconds=time.monotonic() - begun, detail=result.message, verdict=result.verdict))

    def could_not(self, row: str, why: str) -> None:
        """Note that the row could not even be started."""
        self.results[row] = StageResult(name=row, verdict=Verdict.ERRORED, seconds=0.0, message=why)
        self.emit(Finished(step=row, seconds=0.0, detail=why, verdict=Verdict.ERRORED))

    async def _guarded(self, context: StageContext, service: Service | None, row: str) -> StageResult:
        found: list[StageResult] = []

        async def judge(scope: anyio.CancelScope) -> None:
            found.append(await self._judge(context, row))
            scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(judge, group.cancel_scope)
            group.start_soon(self._watched, context, row)
            while service is not None and await service.alive():
                await anyio.sleep(_WATCH_INTERVAL_S)
            if service is not None:
                # The programs notice by themselves that nobody answers; they get a moment to write that down.
                await anyio.sleep(_LAST_WORDS_S)
                group.cancel_scope.cancel()
        if service is None or await service.alive():
            return found[0]
        died = await _without_server(context.spec.name, service, "died during the stage")
        cases = found[0].cases if found else ()
        return StageResult(name=died.name, verdict=died.verdict, seconds=0.0, cases=cases, message=died.message, log=died.log)

    async def _watched(self, context: StageContext, row: str) -> None:
        """Tell how far the stage is while it runs."""
        try:
            names = [program.name for program in STAGES[context.spec.name].programs(context)]
        except UsageError:  # told by whoever runs them
            return
        await watch(self.engine, names, row, self.emit)

    async def _judge(self, context: StageContext, row: str) -> StageResult:
        name = context.spec.name
        stage = STAGES[name]
        outcomes: list[Outcome] = []
        begun = time.monotonic()
        try:
            for program in stage.programs(context):
                outcomes.append(await self.engine.run(program))  # noqa: PERF401 - one after another
            self.outputs[row] = tuple(outcome.output for outcome in outcomes)
            return await stage.result(context, outcomes)
        except UsageError:
            raise
        except VllmCiError as error:
            log = "\n".join(outcome.log for outcome in outcomes)
            seconds = time.monotonic() - begun
            return StageResult(name=name, verdict=Verdict.ERRORED, seconds=seconds, message=str(error), log=log)


async def _without_server(name: str, service: Service, how: str) -> StageResult:
    log = await service.log()
    tail = "\n".join(log.splitlines()[-_TAIL_LINES:])
    message = f"the server {how}; the end of its log:\n{tail}"
    return StageResult(name=name, verdict=Verdict.ERRORED, seconds=0.0, message=message, log=log)
