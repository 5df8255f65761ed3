"""The pipeline as code: what a user's ``ci/pipeline.py`` gets, and what the default pipeline is written in."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import anyio

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import ConfigError, EngineError, ErroredError
from vllm_ci.domain.events import Emit, Event
from vllm_ci.domain.project import Project
from vllm_ci.domain.report import Report, StageResult
from vllm_ci.domain.stage import StageSpec
from vllm_ci.domain.variant import Matrix, Variant
from vllm_ci.engine import Engine, single_error
from vllm_ci.pipeline import building, serving, tools
from vllm_ci.pipeline.building import Built
from vllm_ci.pipeline.errors import misuse
from vllm_ci.pipeline.handles import Image, Server
from vllm_ci.pipeline.record import Record, problem_of, rows
from vllm_ci.pipeline.source import Source
from vllm_ci.stages import Stage, installed, needs_server, stage_of, unknown, wants_pytest_inside
from vllm_ci.stages.running import Runner
from vllm_ci.stages.stage import StageContext
from vllm_ci.stages.user_code import caller

_Named = str | Stage


def _silent(event: Event) -> None:
    """Tell nobody."""


@dataclass(kw_only=True)
class _Call:
    """A call that has to be awaited: where it was made, and the coroutine."""

    text: str
    at: str
    work: Coroutine[Any, Any, Any]


class Pipeline:
    """The steps of a run on one engine: build, serve, test, report.

    A file ``ci/pipeline.py`` with ``async def pipeline(ci: Pipeline) -> Report`` is run by ``vllm-ci run``. Elsewhere
    :func:`vllm_ci.open_pipeline` opens one, or it is made from an open engine, a project and its source.

    Args:
        engine: Where everything runs; open.
        project: What the configuration asks for.
        source: The project's files, as directories of the engine.
        emit: Is told of every start and end of a step; by default nobody is.
        matrix: Other servers to test; by default none.
        record: Takes down what is found, for a caller who may stop the run before its end.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        project: Project,
        source: Source,
        emit: Emit = _silent,
        matrix: Matrix | None = None,
        record: Record | None = None,
    ) -> None:
        self.engine = engine
        self._project, self._source, self._matrix = project, source, matrix
        self.record = record or Record(emit=emit)
        self.record.engine, self.record.commit = engine.name, source.commit
        self.record.double = engine.capabilities.double
        self.record.runner = self._runner = self.record.runner or Runner(engine=engine, emit=self.record)
        self._built: dict[str, Built] = {}
        self._calls: list[_Call] = []
        self._noted: list[BaseException] = []
        self._reports: list[Report] = []
        self._tested: set[str] = set()

    @property
    def commit(self) -> Commit:
        """The commit that is built and tested."""
        return self._source.commit

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages that run: those of ``--stage``, or else those that ``vllm-ci.yaml`` enables."""
        return tuple(spec.name for spec in self._project.stages)

    @property
    def image_stages(self) -> tuple[str, ...]:
        """Those of :attr:`stages` that need only an image."""
        return tuple(spec.name for spec in self._project.stages if not needs_server(spec))

    @property
    def server_stages(self) -> tuple[str, ...]:
        """Those of :attr:`stages` that need a server."""
        return tuple(spec.name for spec in self._project.stages if needs_server(spec))

    @property
    def matrix_stages(self) -> tuple[str, ...]:
        """Those of :attr:`server_stages` that ``matrix.stages`` names for the other servers."""
        return tuple(name for name in self.server_stages if self._matrix is not None and name in self._matrix.stages)

    def variants(self) -> tuple[Variant, ...]:
        """Other servers to test (``--matrix``): those that this engine can run; the report says why it has not the others."""
        capabilities, possible = self.engine.capabilities, []
        for variant in self._matrix.variants if self._matrix is not None else ():
            reason = variant.impossible(self._project, gpus=capabilities.gpus, cores=capabilities.cores)
            if reason:
                self.record.skipped |= {f"{name}@{variant.name}": reason for name in self.matrix_stages}
            else:
                possible.append(variant)
        return tuple(possible)

    def expect(self, *stages: _Named) -> None:
        """Announce stages: those that are not run in the end are in the report as ``errored``, and it cannot pass without them.

        Args:
            stages: Names or stages; none means all that ``vllm-ci.yaml`` enables, with those of the matrix.
        """
        at = caller()
        announced = [self._spec(each, at)[0].name for each in stages] if stages else rows(self._project, self._matrix)
        self._announce([name for name in announced if stages == () or self._runs(name)])

    def build(self) -> Coroutine[Any, Any, Image]:
        """Build the image of the commit.

        Raises:
            BuildError: It could not be built; the report says why.
            ConfigError: What was asked for cannot be built.
        """
        return self._called("ci.build()", self._build())

    def serve(self, image: Image, variant: Variant | None = None, *, name: str = "") -> AbstractAsyncContextManager[Server]:
        """Serve the image while the context lasts; the server is ready when the context begins.

        Args:
            image: What :meth:`build` returned.
            variant: Another way to serve it, with rows of its own in the report.
            name: Name of a second server; its rows are called ``STAGE@NAME``.

        Raises:
            ErroredError: The model could not be made, or the server did not start; the report says why.
        """
        at = caller()
        if not isinstance(image, Image):
            raise _no_image(image, "ci.serve()", at)
        return self._serve(self._built_of(image, at), image, variant, name or (variant.name if variant else ""))

    def test(self, target: Image | Server, *stages: _Named) -> Coroutine[Any, Any, tuple[StageResult, ...]]:
        """Run stages against a server, or inside an image, one after another. A stage that fails does not raise.

        Stages that ``--stage`` leaves out are not run.

        Args:
            target: What :meth:`serve` gave, or what :meth:`build` returned.
            stages: Names of stages (``"integration"``, one of ``stages:`` in ``vllm-ci.yaml``, an installed one), or stages.

        Returns:
            The results of the stages that ran, in the same order.

        Raises:
            PipelineError: There is no such stage, or the target is of the wrong kind.
        """
        at = caller()
        if not isinstance(target, Image | Server):
            raise _no_image(target, "ci.test()", at)
        planned = [self._planned(target, each, at) for each in stages]
        return self._called("ci.test()", self._test(target, [each for each in planned if each is not None]))

    async def together(self, *work: Awaitable[object]) -> None:
        """Wait for several things that run at the same time: all come to their end, then the first error is raised.

        Args:
            work: Coroutines, e.g. ``ci.test(image, "unit")`` and one that serves the image and tests the server.
        """
        errors: list[Exception] = []

        async def one(each: Awaitable[object]) -> None:
            try:
                await each
            except Exception as error:  # noqa: BLE001 - raised below
                errors.append(error)

        async with anyio.create_task_group() as group:
            for each in work:
                group.start_soon(one, each)
        if errors:
            raise errors[0]

    def report(self) -> Report:
        """What was found; return it at the end of the pipeline.

        Raises:
            PipelineError: A call before it was not awaited, or still runs.
        """
        self.check_awaited()
        report = self.record.run().report
        self._reports.append(report)
        return report

    def check_awaited(self) -> None:
        """Check that every step that was called has come to its end.

        Raises:
            PipelineError: One was never awaited, or still runs.
        """
        calls, self._calls = self._calls, []
        states = [(call, inspect.getcoroutinestate(call.work)) for call in calls]
        for call, state in states:
            if state == inspect.CORO_CREATED:
                call.work.close()
        for call, state in states:
            if state == inspect.CORO_CREATED:
                raise misuse(f"{call.text} was not awaited: it did not run", remedy=f"write `await {call.text}`", at=call.at)
            if state != inspect.CORO_CLOSED:
                raise misuse(f"{call.text} still runs when the report is made", remedy="wait for it first", at=call.at)

    def issued(self, report: object) -> bool:
        """Whether :meth:`report` made it: a report that a pipeline puts together by itself is no evidence."""
        return any(report is each for each in self._reports)

    def is_noted(self, error: BaseException) -> bool:
        """Whether the report says already what the error says."""
        return any(error is each for each in self._noted)

    def _called(self, text: str, work: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        self._calls.append(_Call(text=text, at=caller(), work=work))
        return work

    async def _build(self) -> Image:
        found: list[Built] = []

        async def build() -> None:
            found.append(await building.build(self.engine, self._project, self._source, self.record))

        with self._noting("build"), single_error():
            async with anyio.create_task_group() as group:
                group.start_soon(self._look)
                group.start_soon(build)
        (built,) = found
        self.record.image = built.image
        self._built[built.image.digest] = built
        return Image(ref=built.image, engine=self.engine, source=self._source.project, facts=built.facts)

    async def _look(self) -> None:
        """Note the machine's facts; a report without them says that they are unknown."""
        with contextlib.suppress(EngineError):
            self.record.hardware = await self.engine.hardware()

    @asynccontextmanager
    async def _serve(self, built: Built, image: Image, variant: Variant | None, name: str) -> AsyncIterator[Server]:
        at = f"@{name}" if name else ""
        project = variant.of(self._project) if variant is not None else self._project
        async with contextlib.AsyncExitStack() as stack:
            with self._noting("model", at):
                checkpoint = await serving.model(self.engine, project, self._source, built.image, self.record, f"model{at}")
            with self._noting("settings", at):
                project = await serving.fitted(self.engine, project, built, checkpoint, self.record, f"settings{at}")
            spec = serving.service(self.engine, project, built, checkpoint)
            what = name or project.model.served_name
            with self._noting("server", at):
                held = await stack.enter_async_context(serving.held(self.engine, spec, what, self.record, f"server{at}"))
            context = replace(
                self._context(image),
                service=held,
                tensor_parallel_size=variant.tensor_parallel_size if variant is not None else 0,
                quantization=variant.quantization if variant is not None else "",
            )
            self.record.services[f"server{at}"] = held
            try:
                yield Server(image=image, url=held.url, model=context.model, name=name, engine=self.engine, context=context)
            except Exception:
                with contextlib.suppress(EngineError):
                    self.record.logs[f"server{at}"] = await held.log()
                raise
            self.record.logs[f"server{at}"] = await held.log()
            del self.record.services[f"server{at}"]

    async def _test(self, target: Image | Server, planned: Sequence[StageContext]) -> tuple[StageResult, ...]:
        at = f"@{target.name}" if isinstance(target, Server) and target.name else ""
        rows = {f"{context.spec.name}{at}": context for context in planned}
        self._announce(rows)
        rows = await self._with_tools(rows)
        for row, context in rows.items():
            stage = context.stage or stage_of(context.spec)
            held = context.service if stage.needs_server else None
            await self._runner.run(context, held, row=row)
        return tuple(self._runner.results[f"{context.spec.name}{at}"] for context in planned)

    async def _with_tools(self, rows: dict[str, StageContext]) -> dict[str, StageContext]:
        """The rows that can run: where one runs pytest inside the image, it is laid out first."""
        wanting = [row for row, context in rows.items() if context.stage is None and wants_pytest_inside(context.spec)]
        if not wanting or self._runner.interrupted:
            return rows
        try:
            laid_out = await tools.tools(self.engine)
        except ErroredError as error:
            for row in wanting:
                self._runner.could_not(row, str(error))
            return {row: context for row, context in rows.items() if row not in wanting}
        return {row: replace(context, tools=laid_out) for row, context in rows.items()}

    def _planned(self, target: Image | Server, named: _Named, at: str) -> StageContext | None:
        """The context of a stage; ``None`` for one that the caller of the run has left out.

        Raises:
            PipelineError: It cannot run on the target.
        """
        spec, stage = self._spec(named, at)
        if not self._runs(spec.name):
            return None
        if stage.needs_server and isinstance(target, Image):
            raise misuse(
                f"the stage {spec.name} needs a server, and ci.test() got an image",
                remedy=f'async with ci.serve(image) as server: await ci.test(server, "{spec.name}")',
                at=at,
            )
        row = f"{spec.name}@{target.name}" if isinstance(target, Server) and target.name else spec.name
        if row in self._tested:
            raise misuse(
                f"the stage {row} is tested a second time",
                why="its second result would replace the first one, whatever that was",
                remedy='give the second server a name: ci.serve(image, name="second")',
                at=at,
            )
        self._tested.add(row)
        base = target.context if isinstance(target, Server) else self._context(target)
        return replace(base, spec=spec, stage=None if isinstance(named, str) else stage)

    def _spec(self, named: _Named, at: str) -> tuple[StageSpec, Stage]:
        """What is known of a stage that a pipeline names, or that it is.

        Raises:
            PipelineError: There is no such stage.
        """
        known = {spec.name: spec for spec in (*self._project.known, *self._project.stages)}
        if not isinstance(named, str):
            return self._own_spec(named, known, at), named
        if named in known:
            return known[named], stage_of(known[named])
        error = unknown(named, known)
        raise misuse(error.message, why=error.why, remedy=error.remedy, at=at)

    @staticmethod
    def _own_spec(stage: Stage, known: dict[str, StageSpec], at: str) -> StageSpec:
        try:
            name = installed.checked(stage, where="what ci.test() got").name
        except ConfigError as error:
            raise misuse(error.message, why=error.why, remedy=error.remedy, at=at) from error
        if name in known:
            raise misuse(
                f"there are two stages called {name}: this one, and one in vllm-ci.yaml",
                remedy=f'name that one (ci.test(server, "{name}")), or give one of them another name',
                at=at,
            )
        promises, timeout_s = getattr(stage, "promises", 1), getattr(stage, "timeout_s", 1800.0)
        return StageSpec(name=name, suite=False, promises=promises, timeout_s=timeout_s)

    def _runs(self, name: str) -> bool:
        """Whether the caller of the run wants the stage."""
        return not self._project.selected or name in self._project.selected

    def _announce(self, rows: Iterable[str]) -> None:
        self.record.rows += [row for row in rows if row not in self.record.rows]

    def _context(self, image: Image) -> StageContext:
        return StageContext(
            spec=StageSpec(name=""),
            commit=self._source.commit,
            image=image.ref,
            model=self._project.model.served_name,
            api_key_env=self._project.server.api_key_env,
            secrets=self._source.secrets,
            source=self._source.project,
            image_facts=image.facts,
            changed=self._source.changed,
        )

    def _built_of(self, image: Image, at: str) -> Built:
        built = self._built.get(image.digest)
        if built is None:
            raise misuse("ci.serve() got the image of another run", remedy="build it first: image = await ci.build()", at=at)
        return built

    @contextmanager
    def _noting(self, step: str, at: str = "") -> Iterator[None]:
        """Take down what breaks: as the run's problem, or, for another server, in the rows that were announced for it."""
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


def _no_image(given: object, text: str, at: str) -> Exception:
    """The error of a call that got something else than an image or a server."""
    if inspect.iscoroutine(given):
        given.close()
        return misuse(f"{text} got a coroutine", why="an `await` is missing", remedy="image = await ci.build()", at=at)
    if isinstance(given, AbstractAsyncContextManager):
        remedy = "async with ci.serve(image) as server: ..."
        return misuse(f"{text} got a server that was not started", why="`async with` starts it", remedy=remedy, at=at)
    said = "nothing (None)" if given is None else f"{type(given).__name__} {given!r:.60}"
    return misuse(f"{text} got {said} in place of an image or a server", remedy="image = await ci.build()", at=at)
