"""Run stages on an engine: every stage gets a result, whatever happens."""

from __future__ import annotations

import inspect
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace

import anyio

from vllm_ci.domain.errors import EngineError, ServiceError, UsageError, VllmCiError
from vllm_ci.domain.events import Emit, Finished, Started
from vllm_ci.domain.program import Directory, NoFiles, Outcome, Program, Service
from vllm_ci.domain.report import StageResult, Verdict
from vllm_ci.domain.stage import BUILT_IN
from vllm_ci.domain.startup_cause import startup_cause
from vllm_ci.engine import Engine, is_gone, single_error
from vllm_ci.stages import reviving, stage_of
from vllm_ci.stages.accepting import accepted
from vllm_ci.stages.stage import Judges, Stage, StageContext
from vllm_ci.stages.user_code import place, trace, words
from vllm_ci.stages.watching import watch
from vllm_ci.suites import ends

_WATCH_INTERVAL_S = 1.0
_LAST_WORDS_S = 3.0
_NOTICES = 10
"""The built-in suites notice the end of the server by themselves, in some tens of seconds, and then say what was not run."""
_TAIL_LINES = 25
_NEAR_LINES = 200
_STOPPED = 128 + signal.SIGTERM


Renew = Callable[[Service], AbstractAsyncContextManager[Service] | None]


@dataclass(kw_only=True)
class Runner:
    """Runs stages and keeps their results.

    Attributes:
        engine: Where the programs run.
        emit: Called at each start and end.
        results: Results by stage.
        outputs: Output directories of the programs, by stage.
        interrupted: Why the runner was stopped; empty if it was not.
        renew: Starts another server like a given one, for the rest of a stage; without it a stage ends with its server.
    """

    engine: Engine
    emit: Emit
    results: dict[str, StageResult] = field(default_factory=dict)
    outputs: dict[str, tuple[Directory, ...]] = field(default_factory=dict)
    interrupted: str = ""
    renew: Renew | None = None
    _stop: anyio.Event = field(default_factory=anyio.Event, init=False)
    _busy: int = field(default=0, init=False)
    _died: str = field(default="", init=False)

    def stop(self, why: str) -> None:
        """Stop the running stages, keep their results, and start no more."""
        self.interrupted = why
        self._stop.set()

    async def idle(self) -> None:
        """Wait until no stage is running."""
        while self._busy:
            await anyio.sleep(0.02)

    async def run(self, context: StageContext, service: Service | None = None, *, row: str = "") -> None:
        """Run the stage of ``context``; if the server dies, the stage is stopped and its verdict is ``errored``.

        Args:
            context: The stage and what it tests.
            service: The server that must stay alive.
            row: Name of the result; by default that of the stage.
        """
        name = row or context.spec.name
        if self.interrupted:
            self.could_not(name, f"not run ({self.interrupted})")
            return
        self.emit(Started(step=name))
        begun = time.monotonic()
        self._busy += 1
        try:
            result = replace(await self._with_servers(context, service, name), name=name)
            self.results[name] = result
        finally:
            self._busy -= 1
        self.emit(Finished(step=name, seconds=time.monotonic() - begun, detail=result.message, verdict=result.verdict))

    async def _with_servers(self, context: StageContext, service: Service | None, row: str) -> StageResult:
        """Run the stage, on further servers if the first one dies."""
        if service is None or not await is_gone(service):
            result = await self._guarded(context, service, row)
            return result if service is None else await self._rest(context, service, row, result)
        if (fresh := self._fresh(service)) is None:
            return await self._gone_before(row, service)
        try:
            async with fresh as another:
                result = await self._guarded(replace(context, service=another), another, row)
        except ServiceError as error:
            return await _without_server(row, service, f"is gone, and a new one did not start ({error.message})")
        return await self._rest(context, service, row, result)

    async def _rest(self, context: StageContext, service: Service, row: str, result: StageResult) -> StageResult:
        """Run the cases that a dead server left, on new servers."""
        repeated: list[str] = []
        servers = 1
        while servers < reviving.MOST_SERVERS and not self.interrupted:
            names = reviving.to_repeat(result, repeated)
            if not names or (fresh := self._fresh(service)) is None:
                break
            repeated += [case.name for case in result.cases if reviving.ended_it(case)]
            try:
                async with fresh as another:
                    second = await self._guarded(replace(context, service=another, only=names), another, row)
            except ServiceError as error:
                return replace(result, message=f"{result.message}\na new server did not start: {error.message}")
            servers += 1
            result = reviving.merged(result, second)
        return replace(result, message=reviving.told(result, servers)) if servers > 1 else result

    def _fresh(self, service: Service) -> AbstractAsyncContextManager[Service] | None:
        return self.renew(service) if self.renew is not None else None

    def could_not(self, row: str, why: str) -> None:
        """Record that a row could not be started."""
        self.results[row] = StageResult(name=row, verdict=Verdict.ERRORED, seconds=0.0, message=why)
        self.emit(Finished(step=row, seconds=0.0, detail=why, verdict=Verdict.ERRORED))

    async def _gone_before(self, name: str, service: Service) -> StageResult:
        """A dead server is explained only once, in the stage during which it died."""
        if not self._died:
            return await _without_server(name, service, "was gone before the stage began")
        message = f"not run: the server was gone before the stage began (it died during {self._died})"
        return StageResult(name=name, verdict=Verdict.ERRORED, seconds=0.0, message=message)

    async def _guarded(self, context: StageContext, service: Service | None, row: str) -> StageResult:
        found: list[StageResult] = []
        stop = anyio.Event()

        async def judge(scope: anyio.CancelScope) -> None:
            found.append(await self._judge(context, row, stop))
            scope.cancel()

        async def obey() -> None:
            await self._stop.wait()
            stop.set()

        with single_error():
            async with anyio.create_task_group() as group:
                group.start_soon(judge, group.cancel_scope)
                group.start_soon(obey)
                group.start_soon(self._watched, context, row)
                if service is not None:
                    while not await is_gone(service):
                        await anyio.sleep(_WATCH_INTERVAL_S)
                    # The programs notice that the server does not answer; give them time to report it.
                    await anyio.sleep(_LAST_WORDS_S * (_NOTICES if context.spec.suite else 1))
                    stop.set()
        (result,) = found
        if service is None or not await is_gone(service):
            return result
        self._died = row
        died = await _without_server(context.spec.name, service, "died during the stage")
        result = reviving.without_server(result, died.message)
        if reviving.noticed(result):  # its cases say so: one failed, and the others were not run
            return replace(result, message=died.message, log="\n".join(filter(None, (result.log, died.log))))
        return replace(died, cases=result.cases, seconds=result.seconds)

    async def _watched(self, context: StageContext, row: str) -> None:
        """Report the progress of a running stage."""
        try:
            names = [program.name for program in _stage(context).programs(context)]
        except (Exception, SystemExit):  # noqa: BLE001 - reported when the programs are run
            return
        await watch(self.engine, names, row, self.emit)

    async def _judge(self, context: StageContext, row: str, stop: anyio.Event) -> StageResult:
        outcomes: list[Outcome] = []
        begun = time.monotonic()
        try:
            found = await self._judged(_stage(context), context, row, stop, outcomes)
            name, own = context.spec.name, context.spec.name not in BUILT_IN
            result = accepted(found, name=name, promised=context.spec.promises if own else 1)
            cut = self.interrupted and stop.is_set() and (any(outcome.stopped for outcome in outcomes) or not outcomes)
            return _cut(result, self.interrupted) if cut else result
        except UsageError:
            raise
        except VllmCiError as error:
            return _errored(context, str(error), begun, outcomes)
        except (Exception, SystemExit) as error:
            where = place(error)
            if not where and context.spec.name in BUILT_IN:
                raise
            log = trace(error)
            said = f"{where}: {words(error)}" if where else words(error)
            return _errored(context, f"{said}\n(raised by the code of the stage)", begun, outcomes, log)

    async def _judged(
        self, stage: Stage, context: StageContext, row: str, stop: anyio.Event, outcomes: list[Outcome]
    ) -> object:
        """Run the programs of the stage, adding to ``outcomes`` as they end, and have it read them."""
        if isinstance(stage, Judges):
            return await stage.judge(context, self.engine, stop)
        for program in _programs(stage, context):
            outcomes.append(await self._outcome(program, stop))  # noqa: PERF401 - one after another
        self.outputs[row] = tuple(outcome.output for outcome in outcomes)
        result: object = stage.result(context, outcomes)
        if not inspect.isawaitable(result):
            raise EngineError(
                f"the method result() of the stage {context.spec.name} is not async", remedy="write `async def result(...)`"
            )
        return await result

    async def _outcome(self, program: Program, stop: anyio.Event) -> Outcome:
        if stop.is_set():
            return Outcome(exit_code=_STOPPED, seconds=0.0, output=NoFiles(), log="", stopped=True)
        return await self.engine.run(program, stop=stop)


def _stage(context: StageContext) -> Stage:
    return context.stage if context.stage is not None else stage_of(context.spec)


def _programs(stage: Stage, context: StageContext) -> tuple[Program, ...]:
    found: object = stage.programs(context)
    programs = tuple(found) if isinstance(found, Iterable) else (found,)
    if not all(isinstance(each, Program) for each in programs):
        raise EngineError(
            f"the method programs() of the stage {context.spec.name} returned {type(found).__name__}",
            remedy="return a tuple of Program (docs/api.md)",
        )
    return programs


def _errored(context: StageContext, message: str, begun: float, outcomes: Sequence[Outcome], trouble: str = "") -> StageResult:
    log = "\n".join([*(outcome.log for outcome in outcomes), *([trouble] if trouble else [])])
    seconds = time.monotonic() - begun
    return StageResult(name=context.spec.name, verdict=Verdict.ERRORED, seconds=seconds, message=message, log=log)


def _cut(result: StageResult, why: str) -> StageResult:
    """The result of a stage that was stopped: its cases are kept, the rest is unknown."""
    cases = tuple(case for case in result.cases if reviving.cause_of(case) != ends.NOT_BEGUN)
    message = f"{why} before it finished" if cases else f"not run ({why})"
    return replace(result, verdict=Verdict.worst((result.verdict, Verdict.ERRORED)), message=message, cases=cases)


async def _without_server(name: str, service: Service, how: str) -> StageResult:
    try:
        log = await service.log()
    except EngineError as error:
        log = f"(the log cannot be read: {error})"
    cause = startup_cause("\n".join(log.splitlines()[-_NEAR_LINES:]))
    # An exception in the log of the API process may come from a rejected request, and not be fatal.
    fatal = cause.explanation and cause.process and not cause.process.lower().startswith("api")
    tail = "\n".join(log.splitlines()[-_TAIL_LINES:])
    known = f"\n  why: {cause.explanation}\n  do:  {cause.change}" if fatal else ""
    found = f": {cause.line}{known}\nthe" if fatal else "; the"
    message = f"the server {how}{found} end of its log:\n{tail}"
    return StageResult(name=name, verdict=Verdict.ERRORED, seconds=0.0, message=message, log=log)
