"""Stages as functions: ``@stage`` on ``async def smoke(server): ...``."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import anyio

from vllm_ci.domain.errors import EngineError, ErroredError, VllmCiError
from vllm_ci.domain.program import Outcome, Program
from vllm_ci.domain.report import Case, CaseStatus, StageResult, verdict_of
from vllm_ci.domain.stage import refusal_of_name
from vllm_ci.engine import Engine
from vllm_ci.pipeline.errors import misuse
from vllm_ci.pipeline.handles import Image, Server
from vllm_ci.stages import user_code
from vllm_ci.stages.command import case_of
from vllm_ci.stages.stage import StageContext

Found = None | Case | Iterable[Case] | Outcome | StageResult
"""The return types of a stage function; an ``AssertionError`` is a failed case."""
Judge = Callable[[Any], Awaitable[Found]]


@dataclass(frozen=True, kw_only=True)
class FunctionStage:
    """A stage whose function tests a server or an image. It can be called like the function itself.

    Attributes:
        name: Name in reports, policies and on the command line.
        needs_server: The function gets a :class:`Server`; otherwise an :class:`Image`.
        timeout_s: Timeout in seconds.
        promises: Minimum number of cases.
    """

    function: Judge = field(repr=False)
    name: str
    needs_server: bool = True
    timeout_s: float = 600.0
    promises: int = 1

    def __call__(self, target: Any) -> Awaitable[Found]:
        """Call the function without a verdict: its exceptions are raised."""
        return self.function(target)

    def programs(self, context: StageContext) -> tuple[Program, ...]:  # noqa: ARG002
        """No programs: the function starts what it needs."""
        return ()

    async def result(self, context: StageContext, outcomes: Sequence[Outcome]) -> StageResult:  # noqa: ARG002
        """Not available: the function returns its own result.

        Raises:
            EngineError: Always.
        """
        raise EngineError(f"the stage {self.name} is a function", remedy="call judge()")

    async def judge(self, context: StageContext, engine: Engine, stop: anyio.Event) -> StageResult:
        """Call the function, and convert its return value or exception to cases."""
        begun = time.monotonic()
        found: list[Found] = []
        raised: list[Exception | SystemExit] = []

        async def call(scope: anyio.CancelScope) -> None:
            try:
                found.append(await self.function(target_of(self, context, engine)))
            except (Exception, SystemExit) as error:  # noqa: BLE001 - it becomes a case
                raised.append(error)
            scope.cancel()

        with anyio.move_on_after(context.spec.timeout_s) as limit:
            async with anyio.create_task_group() as group:
                group.start_soon(call, group.cancel_scope)
                await stop.wait()
                group.cancel_scope.cancel()
        seconds = round(time.monotonic() - begun, 3)
        if limit.cancelled_caught:
            return self._of([self._case(CaseStatus.ERRORED, f"timed out after {context.spec.timeout_s:g} s")], seconds)
        if raised:
            leaves = list(user_code.leaves(raised[0]))
            log = user_code.trace(raised[0])
            return self._of([self._raised(each) for each in leaves], seconds, log=log)
        if not found:  # stopped from outside, or without its server
            return self._of([self._case(CaseStatus.ERRORED, "was stopped before it finished")], seconds)
        return self._returned(found[0], seconds, promised=context.spec.promises)

    def _returned(self, found: Found, seconds: float, *, promised: int) -> StageResult:
        if isinstance(found, StageResult):
            return replace(found, name=self.name)
        if isinstance(found, Outcome):
            case = case_of(found, name=self.name)
            return self._of([case], seconds, log=found.log)
        cases = [self._case(CaseStatus.PASSED)] if found is None else _listed(found)
        if cases is None:
            message = f"{self._place}: the stage returned {type(found).__name__}"
            why = "a stage must return None, a Case, several Cases, an Outcome or a StageResult; raise AssertionError to fail"
            return self._of([self._case(CaseStatus.ERRORED, f"{message}; {why}")], seconds)
        return self._of(cases, seconds, promised=promised)

    def _raised(self, error: Exception | SystemExit) -> Case:
        where = user_code.place(error)
        status = CaseStatus.FAILED if isinstance(error, AssertionError) else CaseStatus.ERRORED
        message = error.message if isinstance(error, VllmCiError) else user_code.words(error)
        return self._case(status, f"{where}: {message}" if where else message, details=user_code.trace(error))

    def _of(self, cases: Sequence[Case], seconds: float, *, promised: int = 1, log: str = "") -> StageResult:
        verdict, message = verdict_of(cases, promised=promised)
        cases = tuple(replace(case, seconds=seconds) if len(cases) == 1 and not case.seconds else case for case in cases)
        return StageResult(name=self.name, verdict=verdict, seconds=seconds, cases=cases, message=message, log=log)

    def _case(self, status: CaseStatus, message: str = "", *, details: str = "") -> Case:
        return Case(name=self.name, status=status, message=message, details=details)

    @property
    def _place(self) -> str:
        return user_code.defined_at(self.function)


def target_of(stage: FunctionStage, context: StageContext, engine: Engine) -> Server | Image:
    """The argument of a stage function.

    Raises:
        ErroredError: The server or image is missing.
    """
    image = None
    if context.image is not None:
        image = Image(ref=context.image, engine=engine, source=context.source, facts=context.image_facts)
    if not stage.needs_server:
        if image is None:
            raise ErroredError(f"the stage {stage.name} needs an image, but there is none", remedy="run the whole pipeline")
        return image
    url = context.service.url if context.service is not None else context.url
    if not url:
        raise ErroredError(f"the stage {stage.name} needs a server, but there is none", remedy="serve the image first")
    return Server(image=image, url=url, model=context.model, engine=engine, context=context)


def _listed(found: object) -> list[Case] | None:
    if isinstance(found, Case):
        return [found]
    if isinstance(found, Iterable) and not isinstance(found, str | bytes):
        cases = list(found)
        return cases if all(isinstance(case, Case) for case in cases) else None
    return None


@overload
def stage(function: Judge, /) -> FunctionStage: ...


@overload
def stage(
    *, name: str = "", needs_server: bool = True, timeout_s: float = 600.0, promises: int = 1
) -> Callable[[Judge], FunctionStage]: ...


def stage(
    function: Judge | None = None,
    /,
    *,
    name: str = "",
    needs_server: bool = True,
    timeout_s: float = 600.0,
    promises: int = 1,
) -> FunctionStage | Callable[[Judge], FunctionStage]:
    """Turn an async function that takes a :class:`Server` (or an :class:`Image`) into a stage.

    The stage passes when the function returns. A failed ``assert`` fails it, with line and message; any other error makes it
    ``errored``. The function may return several Cases.

    Args:
        function: The function, if the decorator is used without arguments.
        name: By default the name of the function, with ``-`` instead of ``_``.
        needs_server: The function takes a Server; otherwise it takes an Image and runs while the server starts.
        timeout_s: Timeout in seconds.
        promises: Minimum number of cases that it returns; fewer is ``errored``.

    Raises:
        PipelineError: The function is not async, or its name belongs to another stage.
    """

    def made(function: Judge) -> FunctionStage:
        called = name or getattr(function, "__name__", "").replace("_", "-")
        if not inspect.iscoroutinefunction(function):
            raise misuse(
                f"the stage {called} is not async",
                why="stages are awaited",
                remedy=f"write `async def {getattr(function, '__name__', called)}(server)`",
            )
        if reason := refusal_of_name(called):
            raise misuse(f"a stage cannot be called {called}", why=reason, remedy='name it: @stage(name="...")')
        return FunctionStage(function=function, name=called, needs_server=needs_server, timeout_s=timeout_s, promises=promises)

    return made if function is None else made(function)
