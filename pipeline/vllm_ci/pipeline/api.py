"""The pipeline API: passed to a user's ``ci/pipeline.py``, and used by the default pipeline."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import EngineError
from vllm_ci.domain.events import Emit, ignore
from vllm_ci.domain.program import Service
from vllm_ci.domain.project import Project
from vllm_ci.domain.report import Report, StageResult
from vllm_ci.domain.stage import StageSpec, refusal_of_name
from vllm_ci.domain.variant import Matrix, Variant
from vllm_ci.engine import Engine, PreparesImages, single_error
from vllm_ci.pipeline import building, serving, tools
from vllm_ci.pipeline import matrix as matrices
from vllm_ci.pipeline.awaiting import Calls
from vllm_ci.pipeline.building import Built
from vllm_ci.pipeline.choosing import Choice, Named
from vllm_ci.pipeline.comparison import Comparison
from vllm_ci.pipeline.errors import misuse, no_image
from vllm_ci.pipeline.handles import Image, Server
from vllm_ci.pipeline.noting import Notes
from vllm_ci.pipeline.record import RunRecord, rows
from vllm_ci.pipeline.source import Source
from vllm_ci.stages import is_exclusive, measured, needs_server, stage_of
from vllm_ci.stages.running import Runner
from vllm_ci.stages.stage import StageContext
from vllm_ci.stages.user_code import caller


class Pipeline:
    """The steps of a run on one engine: build, serve, test, report.

    A file ``ci/pipeline.py`` with ``async def pipeline(ci: Pipeline) -> Report`` is run by ``vllm-ci run``. Elsewhere,
    open one with :func:`vllm_ci.open_pipeline`, or create it from an open engine, a project and its source.

    Args:
        engine: Where everything runs; it must be open.
        project: The configured project.
        source: The project's files, as directories of the engine.
        emit: Called at every start and end of a step; by default events are ignored.
        matrix: Other servers to test; by default none.
        record: Collects the results, for callers that may stop the run early.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        project: Project,
        source: Source,
        emit: Emit = ignore,
        matrix: Matrix | None = None,
        record: RunRecord | None = None,
    ) -> None:
        self.engine = engine
        self._project, self._source, self._matrix = project, source, matrix
        self.record = record or RunRecord(emit=emit)
        self.record.engine, self.record.commit = engine.name, source.commit
        self.record.model = source.served
        self.record.double = engine.capabilities.double
        self.record.runner = self._runner = self.record.runner or Runner(engine=engine, emit=self.record)
        self._choice = Choice(project=project)
        self._built: dict[str, Built] = {}
        self.calls = Calls()
        self.notes = Notes(record=self.record)
        self._reports: list[Report] = []
        self._tested: set[str] = set()
        self._stopped: list[Service] = []
        self._again: list[tuple[Service, Callable[[], AbstractAsyncContextManager[Service]]]] = []
        self._runner.renew = self._renewed
        chosen = (*(name for name in self.stages if name in project.selected), *project.selected)
        self._announce(dict.fromkeys(chosen))  # every selected stage gets a result, or an error that says why there is none

    @property
    def commit(self) -> Commit:
        """The commit that is built and tested."""
        return self._source.commit

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages to run: those of ``--stage``, otherwise those that ``vllm-ci.yaml`` enables."""
        return tuple(spec.name for spec in self._project.stages)

    @property
    def image_stages(self) -> tuple[str, ...]:
        """The :attr:`stages` that need only an image, without the :attr:`exclusive_stages`."""
        return tuple(spec.name for spec in self._project.stages if not needs_server(spec) and not is_exclusive(spec))

    @property
    def exclusive_stages(self) -> tuple[str, ...]:
        """The :attr:`stages` that measure time: they need only an image, and that nothing else runs on the machine.

        None where they measure the matrix servers instead (:meth:`stages_for`).
        """
        if matrices.measures(self._project, self._matrix):
            return ()
        return tuple(spec.name for spec in self._project.stages if is_exclusive(spec))

    @property
    def server_stages(self) -> tuple[str, ...]:
        """The :attr:`stages` that need a server."""
        return tuple(spec.name for spec in self._project.stages if needs_server(spec))

    @property
    def matrix_stages(self) -> tuple[str, ...]:
        """The :attr:`stages` that ``matrix.stages`` selects for the matrix servers."""
        return matrices.stages(self._project, self._matrix)

    def stages_for(self, variant: Variant | None = None) -> tuple[str, ...]:
        """The stages for a matrix server, or the :attr:`server_stages` for the one without a variant."""
        return self.server_stages if variant is None else matrices.stages(self._project, self._matrix, variant)

    def variants(self) -> tuple[Variant, ...]:
        """Matrix servers (``--matrix``) that this engine can run; the report lists the others as skipped, with a reason."""
        capabilities, possible = self.engine.capabilities, []
        for variant in matrices.servers(self._project, self._matrix):
            reason = variant.impossible(self._project, gpus=capabilities.gpus, cores=capabilities.cores)
            if reason:
                self.record.skipped |= {f"{name}@{variant.name}": reason for name in self.stages_for(variant)}
            else:
                possible.append(variant)
        return tuple(possible)

    def expect(self, *stages: Named) -> None:
        """Declare stages that must run: those that did not run are reported as ``errored``, so the run cannot pass.

        Args:
            stages: Names or stages; by default all that ``vllm-ci.yaml`` enables, including those of the matrix.
        """
        at = caller()
        with self.calls.refusing():
            named = [self._choice.find(each, at)[0].name for each in stages]
        announced = named if stages else rows(self._project, self._matrix)
        self._announce([name for name in announced if stages == () or self._choice.wants(name)])

    def build(self) -> Coroutine[Any, Any, Image]:
        """Build the image of the commit.

        Raises:
            BuildError: The build failed; the report says why.
            ConfigError: The configuration cannot be built.
        """
        return self.calls.add("ci.build()", caller(), self._build())

    def serve(self, image: Image, variant: Variant | None = None, *, name: str = "") -> AbstractAsyncContextManager[Server]:
        """Serve the image for the duration of the context; the server is ready when the context is entered.

        Args:
            image: The image that :meth:`build` returned.
            variant: Serve it in another way, with separate rows in the report.
            name: Name of a second server; its rows are called ``STAGE@NAME``.

        Raises:
            ErroredError: The model could not be created, or the server did not start; the report says why.
        """
        at = caller()
        with self.calls.refusing():
            if not isinstance(image, Image):
                raise no_image(image, "ci.serve()", at)
            built = self._built_of(image, at)
            if name and (reason := refusal_of_name(name)):
                raise misuse(f"a server cannot be called {name}", why=reason.replace("a stage's", "its"), at=at)
        return self._serve(built, image, variant, name or (variant.name if variant else ""))

    def test(self, target: Image | Server, *stages: Named) -> Coroutine[Any, Any, tuple[StageResult, ...]]:
        """Run stages against a server, or inside an image, one after another. A stage that fails does not raise.

        Stages excluded by ``--stage`` are not run.

        Args:
            target: The server from :meth:`serve`, or the image from :meth:`build`.
            stages: Names of stages (built-in, from ``stages:`` in ``vllm-ci.yaml``, or installed), or stage objects.

        Returns:
            The results of the stages that ran, in the same order.

        Raises:
            PipelineError: There is no such stage, or it cannot run on this target.
        """
        at = caller()
        with self.calls.refusing():
            if not isinstance(target, Image | Server):
                raise no_image(target, "ci.test()", at)
            self._check_served(target, at)
            planned = [self._planned(target, each, at) for each in stages]
        return self.calls.add("ci.test()", at, self._test(target, [each for each in planned if each is not None]))

    async def together(self, *work: Awaitable[object]) -> None:
        """Run several things concurrently: wait until all have ended, then raise the first error.

        Args:
            work: Coroutines, e.g. ``ci.test(image, "unit")`` and one that serves the image and tests the server.
        """
        errors: list[Exception | SystemExit] = []

        async def one(each: Awaitable[object]) -> None:
            try:
                await each
            except (Exception, SystemExit) as error:  # noqa: BLE001 - raised below
                errors.append(error)

        async with anyio.create_task_group() as group:
            for each in work:
                group.start_soon(one, each)
        if errors:
            raise errors[0]

    def report(self) -> Report:
        """The report so far; return it at the end of the pipeline.

        Raises:
            PipelineError: An earlier call was not awaited, or is still running.
        """
        self.calls.check()
        report = self.record.run().report
        self._reports.append(report)
        return report

    def issued(self, report: object) -> bool:
        """Whether :meth:`report` created it: a report from anywhere else is not accepted as evidence."""
        return any(report is each for each in self._reports)

    async def _build(self) -> Image:
        found: list[Built] = []

        async def build() -> None:
            built = await building.build(self.engine, self._project, self._source, self.record)
            if isinstance(self.engine, PreparesImages):
                await self.engine.prepare(built.image, self.record)
            found.append(built)

        with self.notes.noting("build"), single_error():
            async with anyio.create_task_group() as group:
                group.start_soon(self._look)
                group.start_soon(build)
        (built,) = found
        self.record.image, self.record.layers = built.image, built.layers
        self._built[built.image.digest] = built
        return Image(ref=built.image, engine=self.engine, source=self._source.project, facts=built.facts)

    async def _look(self) -> None:
        """Record facts about the machine; without them the report says that they are unknown."""
        with contextlib.suppress(EngineError):
            self.record.hardware = await self.engine.hardware()

    @asynccontextmanager
    async def _serve(self, built: Built, image: Image, variant: Variant | None, name: str) -> AsyncIterator[Server]:
        project = variant.of(self._project) if variant is not None else self._project
        base = self._context(image)
        if variant is not None:
            base = replace(base, tensor_parallel_size=variant.tensor_parallel_size, quantization=variant.quantization)
        async with serving.watched(self.engine, project, self._source, built, self.notes, name=name) as (held, again):
            self._again.append((held, again))
            context = replace(base, service=held)
            try:
                yield Server(image=image, url=held.url, model=base.model, name=name, engine=self.engine, context=context)
            finally:
                self._stopped.append(held)

    def _renewed(self, service: Service) -> AbstractAsyncContextManager[Service] | None:
        """Another server like one that died."""
        return next((again() for each, again in self._again if each is service), None)

    async def _test(self, target: Image | Server, planned: Sequence[StageContext]) -> tuple[StageResult, ...]:
        at = f"@{target.name}" if isinstance(target, Server) and target.name else ""
        rows = {f"{context.spec.name}{at}": context for context in planned}
        self._announce(rows)
        rows = await tools.laid_out(self._runner, rows)
        for row, context in rows.items():
            stage = context.stage or stage_of(context.spec)
            held = context.service if stage.needs_server else None
            await self._runner.run(context, held, row=row)
        return tuple(self._runner.results[f"{context.spec.name}{at}"] for context in planned)

    def _planned(self, target: Image | Server, named: Named, at: str) -> StageContext | None:
        """The context of a stage; ``None`` if it is not selected for this run.

        Raises:
            PipelineError: The stage cannot run on the target.
        """
        spec, stage = self._choice.find(named, at)
        if not self._choice.wants(spec.name):
            return None
        if stage.needs_server and isinstance(target, Image):
            raise misuse(
                f"the stage {spec.name} needs a server, but ci.test() got an image",
                remedy=f'async with ci.serve(image) as server: await ci.test(server, "{spec.name}")',
                at=at,
            )
        row = f"{spec.name}@{target.name}" if isinstance(target, Server) and target.name else spec.name
        if row in self._tested:
            raise misuse(
                f"the stage {row} is tested a second time",
                why="the second result would replace the first one",
                remedy='give the second server a name: ci.serve(image, name="second")',
                at=at,
            )
        self._tested.add(row)
        base = target.context if isinstance(target, Server) else self._context(target)
        if isinstance(target, Server) and is_exclusive(spec):
            return replace(base, spec=spec, stage=measured.STAGE)
        return replace(base, spec=spec, stage=None if isinstance(named, str) else stage)

    def _check_served(self, target: Image | Server, at: str) -> None:
        """Check that the server has not been stopped.

        Raises:
            PipelineError: It has.
        """
        if isinstance(target, Server) and any(target.service is each for each in self._stopped):
            raise misuse(
                "ci.test() got a server that is stopped",
                why="a server runs until the end of its `async with ci.serve(...)` block",
                remedy="test it inside that block",
                at=at,
            )

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
            compares=self._comparison(image),
        )

    def _comparison(self, image: Image) -> Comparison | None:
        built = self._built.get(image.digest)
        if built is None:
            return None
        return Comparison(engine=self.engine, project=self._project, source=self._source, built=built, record=self.record)

    def _built_of(self, image: Image, at: str) -> Built:
        built = self._built.get(image.digest)
        if built is None:
            raise misuse("ci.serve() got an image from another run", remedy="build it first: image = await ci.build()", at=at)
        return built
