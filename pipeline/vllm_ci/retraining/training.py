"""The step ``train``: runs the training program in its image, shows how far it is, and keeps its checkpoints for a next try."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import anyio

from vllm_ci.domain.errors import EngineError, ErroredError, FailedError
from vllm_ci.domain.events import Emit, Progress
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.program import Directory, Outcome, Program
from vllm_ci.engine import Engine, TellsSoFar, single_error
from vllm_ci.pipeline import telling
from vllm_ci.programs import FOLDER as PROGRAMS
from vllm_ci.programs.train_model import COMPLETE
from vllm_ci.retraining import curve

STEP = "train"
_KILLED = 137
_LOOK_EVERY_S = 1.0
_CHECKPOINT, _BEFORE = "checkpoint", "checkpoint-before"


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is trained.

    Attributes:
        method: ``lora`` trains an adapter and merges it into the weights; ``full`` trains all weights.
        objective: ``sft`` learns the answers; ``dpo`` learns which of two answers is better (direct preference optimization).
        beta: With ``dpo``, how much the model is held to its base.
        epochs: How often each row is seen.
        learning_rate: At its peak.
        batch_size: Rows at a time.
        accumulate: Batches for each step of the optimizer.
        max_tokens: Longer conversations are left out.
        seed: Of the order of rows, of new weights and of dropout.
        rank: Of the adapter.
        alpha: Scale of the adapter.
        dropout: In the adapter.
        targets: Modules that get an adapter; ``all-linear`` alone for all linear layers.
        warmup: Share of the steps with a rising learning rate.
        weight_decay: Of the optimizer.
        save_every: Steps between two checkpoints.
        threads: Processors to use; 0 for all.
        gradient_checkpointing: Compute activations twice, to need less memory.
    """

    method: Literal["lora", "full"] = "lora"
    objective: Literal["sft", "dpo"] = "sft"
    beta: float = 0.1
    epochs: int = 3
    learning_rate: float = 2e-4
    batch_size: int = 8
    accumulate: int = 1
    max_tokens: int = 1024
    seed: int = 7
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: tuple[str, ...] = ("all-linear",)
    warmup: float = 0.05
    weight_decay: float = 0.0
    save_every: int = 25
    threads: int = 0
    gradient_checkpointing: bool = False

    def to_json(self) -> dict[str, object]:
        """Plain data, as the program takes it."""
        return {**asdict(self), "targets": list(self.targets)}


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """What a training needs.

    Attributes:
        engine: Where it runs.
        image: The image for training.
        gpus: ``none``, ``all`` or the number of a device; one device is used.
        timeout_s: Longest time that it may take.
        emit: Told of its progress.
    """

    engine: Engine
    image: ImageRef
    gpus: str
    timeout_s: float
    emit: Emit

    async def train(
        self, base: Directory, data: Directory, settings: Training, *, out: Path, kept: Path
    ) -> Mapping[str, object]:
        """Train into the folder ``out``, from the checkpoint in ``kept`` if there is one.

        Raises:
            ErroredError: It did not end well; the message says what to change.
            FailedError: The data cannot be trained on.
        """
        goes_on = kept / _CHECKPOINT
        if not goes_on.exists() and (kept / _BEFORE).is_dir():  # killed while a newer one took its place
            (kept / _BEFORE).rename(goes_on)
        resumed = (goes_on / COMPLETE).is_file()
        handles = {"programs": self.engine.directory(PROGRAMS), "base": base, "data": data}
        if resumed:
            self.emit(Progress(step=STEP, detail=f"goes on from step {_number(goes_on)}"))
            handles["checkpoint"] = self.engine.directory(goes_on)
        program = Program(
            name=STEP,
            argv=(
                *("python", "{in.programs}/train_model.py", "{in.base}", "{in.data}", "{out}"),
                json.dumps(settings.to_json(), sort_keys=True),
                *(("{in.checkpoint}",) if resumed else ()),
            ),
            env={**_ENVIRONMENT, "CUDA_VISIBLE_DEVICES": _device(self.gpus, alone=self.engine.capabilities.isolated)},
            image=self.image,
            inputs=handles,
            gpus=self.gpus,
            timeout_s=self.timeout_s,
        )
        outcome = await self._run(program, kept)
        if not outcome:
            await self._keep(outcome.output, kept)
            raise await _problem(outcome, _number(goes_on))
        await self.engine.export(outcome.output, out)
        (out / "progress.json").unlink(missing_ok=True)
        facts: dict[str, Any] = json.loads((out / "training.json").read_bytes())
        (out / "loss.svg").write_bytes(curve.svg(facts["losses"], facts["validation_losses"]))
        return facts

    async def _run(self, program: Program, kept: Path) -> Outcome:
        """Run the program, and look at what it writes meanwhile."""
        with single_error():
            async with anyio.create_task_group() as group:
                group.start_soon(self._look, kept)
                outcome = await self.engine.run(program)
                group.cancel_scope.cancel()
        return outcome

    async def _look(self, kept: Path) -> None:
        if not isinstance(self.engine, TellsSoFar):
            return
        said = ""
        while True:
            await anyio.sleep(_LOOK_EVERY_S)
            found = self.engine.so_far(STEP)
            if found is None:
                continue
            with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
                text = _progress(json.loads(await found.read("progress.json")))
                if text != said:
                    said = text
                    self.emit(Progress(step=STEP, detail=text))
            await self._keep(found, kept)

    async def _keep(self, output: Directory, kept: Path) -> None:
        """Copy the newest complete checkpoint, if there is a newer one than the one that is kept."""
        try:
            names = await output.names()
        except OSError:  # the program is removing its checkpoints
            return
        steps = [int(name.split("/")[1].rpartition("-")[2]) for name in names if _is_complete(name)]
        place = kept / _CHECKPOINT
        if not steps or (place.is_dir() and _number(place) >= max(steps)):
            return
        part = kept / "part"
        shutil.rmtree(part, ignore_errors=True)
        with contextlib.suppress(EngineError):  # it was replaced by a newer one meanwhile
            await self.engine.export(output, part)
            newest = part / "checkpoints" / f"checkpoint-{max(steps)}"
            if (newest / COMPLETE).is_file():
                _replace(place, newest)
        shutil.rmtree(part, ignore_errors=True)


def _replace(place: Path, newest: Path) -> None:
    """Put the newest checkpoint in the place of the one that is kept; whenever this ends, a whole one is there or beside it."""
    before = place.with_name(_BEFORE)
    shutil.rmtree(before, ignore_errors=True)
    if place.exists():
        place.rename(before)
    newest.rename(place)
    shutil.rmtree(before, ignore_errors=True)


# Threads that wait for each other give way to other programs; what vLLM's and other programs' caches say is not asked.
_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "DO_NOT_TRACK": "1",
}


def _device(gpus: str, *, alone: bool) -> str:
    """The one device that is used: several would train in another way, with other results.

    Args:
        gpus: As in :class:`Trainer`.
        alone: The program sees only these devices, as in a container, where they are counted from 0.
    """
    return "" if gpus == "none" else "0" if alone or gpus == "all" else gpus.split(",", maxsplit=1)[0]


def _is_complete(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 3 and parts[0] == "checkpoints" and parts[2] == COMPLETE


def _number(checkpoint: Path) -> int:
    """Step of a checkpoint that is kept."""
    try:
        return int(json.loads((checkpoint / "trainer_state.json").read_bytes())["global_step"])
    except (OSError, ValueError, LookupError, TypeError):
        return -1


def _progress(found: Mapping[str, Any]) -> str:
    if found["loss"] is None:
        reference = f", the reference was asked {found['reference']}" if "reference" in found else ""
        return f"step 0 of {found['steps']}{reference}"
    done = 10 * found["step"] // max(found["steps"], 1)
    left = f", about {found['left_s']:.0f} s left" if found["step"] < found["steps"] else ""
    return f"[{'#' * done}{'.' * (10 - done)}] step {found['step']} of {found['steps']}, loss {found['loss']:.3f}{left}"


_LESS_MEMORY = (
    "use a smaller train.batch_size with a larger train.accumulate (nearly the same result), a smaller train.max_tokens, "
    "train.gradient_checkpointing: true, or train.method: lora in place of full"
)


async def _problem(outcome: Outcome, step: int) -> ErroredError | FailedError:
    """Why a training ended early."""
    resume = f"; the next run goes on from step {step}" if step >= 0 else ""
    with contextlib.suppress(OSError, ValueError, LookupError):
        found = json.loads(await outcome.output.read("problem.json"))
        if found["kind"] == "memory":
            return ErroredError("the training ran out of memory", why=found["message"], remedy=_LESS_MEMORY, log=outcome.log)
        if found["kind"] == "loss":
            return FailedError(
                "the training diverged",
                why=found["message"],
                remedy="use a smaller train.learning_rate, or a larger train.warmup",
            )
        return FailedError(
            "the data cannot be trained on",
            why=found["message"],
            remedy="look at the rows, raise train.max_tokens, or use a base model with another chat template",
        )
    if outcome.timed_out:
        return ErroredError(
            f"the training was stopped after {outcome.seconds:.0f} s", remedy=f"raise train.timeout_s{resume}", log=outcome.log
        )
    if outcome.exit_code == _KILLED:
        return ErroredError(
            f"the training was killed{resume}",
            why="usually by the kernel, because no memory was left, or by somebody",
            remedy=f"run it again; if it happens again: {_LESS_MEMORY}",
            log=outcome.log,
        )
    said = telling.failure(outcome.log)
    return ErroredError(
        f"the training failed: {said['message']}",
        why=said["why"],
        remedy=said["remedy"] or f"see its log{resume}",
        log=outcome.log,
    )
