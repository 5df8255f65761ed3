"""The step ``answers``: serves a model by the project's own server and asks it every held-out row."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from vllm_ci.domain.errors import ErroredError
from vllm_ci.domain.events import Emit, Progress
from vllm_ci.domain.project import Project
from vllm_ci.engine import Engine
from vllm_ci.pipeline import serving, steps
from vllm_ci.pipeline.building import Built
from vllm_ci.pipeline.source import Source
from vllm_ci.retraining import prompts
from vllm_ci.retraining.evaluating import Answered, Asker, Row
from vllm_ci.retraining.plan import Plan
from vllm_ci.retraining.store import Result

STEP = "answers"
_FILE, _PROMPTS = "answers.jsonl", "prompts.jsonl"
# Layers that name the commit and nothing that runs.
_NAMING = ("metadata",)


@dataclass(kw_only=True)
class Served:
    """Serves models by the project's image and settings, one after the other.

    Attributes:
        engine: Where servers run.
        project: How they are served.
        source: The project's files.
        emit: Told of each step.
        plan: What is asked for.
    """

    engine: Engine
    project: Project
    source: Source
    emit: Emit
    plan: Plan
    _built: list[Built] = field(default_factory=list)

    async def inputs(self) -> dict[str, object]:
        """What answers depend on, besides model and rows: the files of the image, and how the server is started."""
        built = await self.built()
        config = {key: value for key, value in built.config.get("config", {}).items() if key in ("Entrypoint", "Env")}
        answering = self.plan.answering
        return {
            **({"prompts": prompts.digest_of_questions(self.plan.prompts)} if self.plan.prompts else {}),
            "layers": [each.digest for each in built.layers if each.tier not in _NAMING],
            "config": config,
            "args": list(self.project.server.args),
            "env": dict(self.project.server.env),
            "max_tokens": answering.max_tokens,
            "match": answering.match,
        }

    async def built(self) -> Built:
        """The image; built once."""
        if not self._built:
            self._built.append(await steps.build(self.engine, self.project, self.source, self.emit))
        return self._built[0]

    async def make(self, model: Path, who: str, held: Sequence[Row], out: Path, _: Path) -> Mapping[str, Any]:
        """Ask a model and write down what it answered.

        Args:
            model: Folder with its files.
            who: What it is called in progress.
            held: The rows.
            out: Folder for the result.

        Raises:
            ErroredError: The server did not start, or did not answer.
        """
        built, folder = await self.built(), self.engine.directory(model)
        spec = replace(self.project.model, tiny=None, path=str(model), name="", ref="", file="")
        project = await steps.fitted(self.engine, replace(self.project, model=spec), built, folder, self.emit)
        key = os.environ.get(self.project.server.api_key_env, "") if self.project.server.api_key_env else ""
        service = steps.service(self.engine, project, built, folder)
        async with serving.held(self.engine, service, f"the {who}", self.emit) as running:
            answering = self.plan.answering
            asker = Asker(
                url=running.url,
                model=spec.served_name,
                key=key,
                max_tokens=answering.max_tokens,
                match=answering.match,
                parallel=answering.parallel,
            )
            try:
                found = await asker.ask(held, self._tell(who, len(held), "rows"))
                asked = [each.messages for each in self.plan.prompts]
                said = await asker.say(asked, self._tell(who, len(asked), "prompts"))
            except ErroredError as error:  # the server's log says why
                log = await running.log()
                raise ErroredError(error.message, why=error.why, remedy=error.remedy, log=log) from error
        lines = [json.dumps(each.to_json(), sort_keys=True, ensure_ascii=False) for each in found]
        (out / _FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
        if asked:
            (out / _PROMPTS).write_text("".join(f"{json.dumps(each)}\n" for each in said), encoding="utf-8")
        right = sum(each.right for each in found)
        return {"rows": len(found), "right": right, "loss": round(fmean(each.loss for each in found), 6)}

    def _tell(self, who: str, count: int, what: str) -> Any:
        return lambda done: self.emit(Progress(step=STEP, detail=f"{who}: {done} of {count} {what}"))


def answers_of(result: Result) -> list[Answered]:
    """The answers that a result holds, in the order of the rows."""
    lines = (result.folder / _FILE).read_text(encoding="utf-8").split("\n")
    return [Answered(**json.loads(line)) for line in lines if line]


def said_of(result: Result) -> list[str]:
    """The answers to prompts that a result holds, in the order of the prompts."""
    lines = (result.folder / _PROMPTS).read_text(encoding="utf-8").split("\n")
    return [str(json.loads(line)) for line in lines if line]
