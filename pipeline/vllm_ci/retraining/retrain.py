"""The pipeline: collect, prepare, train, validate, register, promote. Each step is skipped whose result is there already."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import anyio

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import FailedError
from vllm_ci.domain.events import Emit, Finished, Progress, Started
from vllm_ci.domain.project import Project
from vllm_ci.engine import Engine
from vllm_ci.evidence.predicates.evaluation import Evaluation
from vllm_ci.models import history, pulling
from vllm_ci.models.evidence import Origin
from vllm_ci.models.files import digest_of_file
from vllm_ci.models.naming import ModelRef
from vllm_ci.models.pulling import Pulled
from vllm_ci.models.setup import ModelSetup
from vllm_ci.pipeline import steps
from vllm_ci.pipeline.source import Source
from vllm_ci.release.policy import Decision
from vllm_ci.retraining import answering, prompts, rows, store, training
from vllm_ci.retraining.answering import Served, answers_of, said_of
from vllm_ci.retraining.blessing import bless
from vllm_ci.retraining.comparing import Comparison, compare
from vllm_ci.retraining.evaluating import Answered
from vllm_ci.retraining.plan import Plan, Retrained
from vllm_ci.retraining.registering import Registration, figures_of
from vllm_ci.retraining.store import Make, Result
from vllm_ci.retraining.training import Trainer


@dataclass(kw_only=True)
class Retraining:
    """A retraining.

    Attributes:
        plan: What is asked for.
        setup: Where models are kept.
        engine: Where programs run.
        project: How models are served.
        source: The project's files.
        emit: Told of each step.
        run_url: URL of the CI run.
    """

    plan: Plan
    setup: ModelSetup
    engine: Engine
    project: Project
    source: Source
    emit: Emit
    run_url: str = ""

    async def run(self) -> Retrained:
        """Carry out all steps.

        Raises:
            UsageError: There is no such base model.
            FailedError: The data is not usable, a file was altered, or a policy refuses.
            ErroredError: The training or a server failed.
        """
        for alias in (self.plan.champion, self.plan.challenger):
            self.setup.policy(alias)
        base = await self._pulled(self.plan.base)
        data, versions = await self._data(base)
        trained = await self._trained(base, data)
        champion = await self._champion(base)
        done = Retrained(
            name=self.plan.name,
            steps=(data, trained),
            compared=f"{champion.record.model}@v{champion.record.version}",
            comparison=None,
            decision=None,
            training=trained.facts,
        )
        files = trained.folder / "model"
        if store.digest_of(files) == store.digest_of(champion.folder):
            return done
        return await self._validated(done, base, champion, versions)

    @property
    def _prefers(self) -> bool:
        """Rows are preferences."""
        return self.plan.training.objective == "dpo"

    @property
    def _kind(self) -> Mapping[str, str]:
        """Part of what a result is made from: the same bytes may be conversations to one plan and preferences to another."""
        return {"rows": "preferences"} if self._prefers else {}

    async def _validated(self, done: Retrained, base: Pulled, champion: Pulled, versions: Mapping[str, str]) -> Retrained:
        data, trained = done.steps
        served = Served(engine=self.engine, project=self.project, source=self.source, emit=self.emit, plan=self.plan)
        held = rows.read(data.folder / rows.TEST, preferences=self._prefers)
        folders = {"champion": champion.folder, "challenger": trained.folder / "model"}
        results: dict[str, Result] = {}
        for who, folder in folders.items():
            inputs = {**await served.inputs(), **self._kind, "model": store.digest_of(folder), "data": data.digest}
            results[who] = await self._step(answering.STEP, inputs, partial(served.make, folder, who, held), who)
        answers = {who: answers_of(each) for who, each in results.items()}
        comparison = self._compared(answers["champion"], answers["challenger"])
        asked = self.plan.prompts
        checked = prompts.check(asked, *(said_of(results[who]) for who in folders)) if asked else None
        decision = bless(self.plan.policy, comparison, checked)
        self._tell(comparison, decision)
        done = replace(done, steps=(*done.steps, *results.values()), comparison=comparison, decision=decision, prompts=checked)
        if not decision.allowed:
            return done
        for each in done.steps:  # what was read before the training may have been altered since
            await anyio.to_thread.run_sync(store.again, each)
        return await anyio.to_thread.run_sync(partial(self._registered, done, base, champion, versions))

    def _compared(self, champion: list[Answered], challenger: list[Answered]) -> Comparison:
        return compare(
            [each.right for each in champion],
            [each.right for each in challenger],
            champion_loss=[each.loss for each in champion],
            challenger_loss=[each.loss for each in challenger],
            confidence=self.plan.policy.confidence,
        )

    def _tell(self, found: Comparison, decision: Decision) -> None:
        said = f"accuracy {found.champion.value:.1%} -> {found.challenger.value:.1%} on {found.rows} rows"
        self.emit(Started(step="validate", detail=f"{len(decision.rules)} rules"))
        self.emit(Finished(step="validate", seconds=0.0, detail=f"{said}: {'blessed' if decision.allowed else 'not blessed'}"))

    def _registered(self, done: Retrained, base: Pulled, champion: Pulled, versions: Mapping[str, str]) -> Retrained:
        data, trained, old, new = done.steps
        assert done.comparison is not None  # noqa: S101 - both were set together
        assert done.decision is not None  # noqa: S101
        found = Evaluation(
            champion=champion.record.digest,
            data=data.digest,
            answers=(old.digest, new.digest),
            figures=figures_of({**asdict(done.comparison), **({"prompts": asdict(done.prompts)} if done.prompts else {})}),
            blessed=done.decision.allowed,
            reasons=done.decision.reasons,
            finished=datetime.now(UTC),
        )
        registration = Registration(
            setup=self.setup,
            name=self.plan.name,
            folder=trained.folder / "model",
            origin=self._origin(versions, trained),
            licence=self.plan.licence,
            found=found,
            decision=done.decision,
            reason=self.plan.reason or f"retrained from {self.plan.base}",
            code=frozenset(each.digest for each in base.model.layers if each.kind == "code"),
        )
        added = registration.add(self.emit)
        version = added.record.version
        moves = [registration.move(version, self.plan.challenger, evaluated=False, emit=self.emit)]
        if self.plan.promote:
            moves.append(registration.move(version, self.plan.champion, evaluated=True, emit=self.emit))
        return replace(done, added=added, moves=tuple(moves))

    def _origin(self, versions: Mapping[str, str], trained: Result) -> Origin:
        record = history.find(self.setup.ledger.read(), self.plan.base)
        commit: Commit = self.source.commit
        facts = {key: value for key, value in trained.facts.items() if key not in ("losses", "validation_losses", "rewards")}
        return Origin(
            source=f"vllm-ci retrain of {self.plan.base}",
            base=f"{record.model}@v{record.version}",
            base_digest=record.digest,
            commit=commit,
            run=self.run_url,
            data=versions,
            training={"settings": self.plan.training.to_json(), "environment": dict(self.plan.environment), **facts},
        )

    async def _pulled(self, ref: ModelRef) -> Pulled:
        return await anyio.to_thread.run_sync(partial(pulling.pull, self.setup, ref, emit=self.emit))

    async def _champion(self, base: Pulled) -> Pulled:
        """The model in use; the base, as long as nothing is in use."""
        standing = history.head(self.setup.ledger.read(), self.plan.name, self.plan.champion)
        return await self._pulled(ModelRef(name=self.plan.name, alias=self.plan.champion)) if standing else base

    async def _data(self, base: Pulled) -> tuple[Result, Mapping[str, str]]:
        """The prepared data as it is now: what happens to its folder later changes nothing here."""
        found = await anyio.to_thread.run_sync(self.plan.data, base.folder, self.emit)
        places = rows.files(found.folder)
        inputs = {place.name: digest_of_file(place) for place in places}

        def copied(out: Path) -> dict[str, int]:
            for place in places:
                if self._prefers and place.name in rows.SPLITS:
                    rows.write(out / place.name, rows.read(place, preferences=True))
                else:
                    shutil.copyfile(place, out / place.name)
                if digest_of_file(place) != inputs[place.name]:
                    raise FailedError(f"{place} changed while it was read", remedy="retrain again when nothing writes to it")
            return rows.check(out, preferences=self._prefers)

        async def make(out: Path, _: Path) -> Mapping[str, object]:
            return {"rows": await anyio.to_thread.run_sync(copied, out)}

        made_from = {"files": inputs, "versions": dict(found.versions), **self._kind}
        result = await self._step(store.DATA_STEP, made_from, make)
        return result, {"training data": result.digest, **found.versions}

    async def _trained(self, base: Pulled, data: Result) -> Result:
        inputs = {
            "base": base.record.digest,
            "data": data.digest,
            "settings": self.plan.training.to_json(),
            "environment": dict(self.plan.environment),
            "device": "cpu" if self.plan.gpus == "none" else "gpu",
        }

        async def make(out: Path, kept: Path) -> Mapping[str, object]:
            project = replace(self.project, build_args=("--image", self.plan.image, "--plain"))
            built = await steps.build(self.engine, project, self.source, self.emit)
            trainer = Trainer(
                engine=self.engine, image=built.image, gpus=self.plan.gpus, timeout_s=self.plan.timeout_s, emit=self.emit
            )
            facts = await trainer.train(
                self.engine.directory(base.folder),
                self.engine.directory(data.folder),
                self.plan.training,
                out=out,
                kept=kept,
            )
            return {**facts, "image": built.image.digest, "hardware": dict(await self.engine.hardware())}

        return await self._step(training.STEP, inputs, make, self._how)

    @property
    def _how(self) -> str:
        asked = self.plan.training
        return f"{asked.method}{', dpo' if self._prefers else ''}, seed {asked.seed}"

    async def _step(self, name: str, inputs: Mapping[str, object], make: Make, detail: str = "") -> Result:
        begun = time.monotonic()
        self.emit(Started(step=name, detail=detail))
        waiting: Callable[[str], None] = lambda text: self.emit(Progress(step=name, detail=text))  # noqa: E731
        found = await store.result(name, inputs, make, waiting=waiting)
        said = f"{detail}: " if detail else ""
        self.emit(
            Finished(
                step=name,
                seconds=time.monotonic() - begun,
                detail=f"{said}{'unchanged' if found.cached else 'made'}, {found.digest[:19]}",
            )
        )
        return found
