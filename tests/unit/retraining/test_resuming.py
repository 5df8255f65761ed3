"""The checkpoint that is kept for the next try: a whole one, whenever the command is killed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anyio
import pytest

from registries.models import checkpoint
from unit.retraining import toy
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.program import Outcome, Program
from vllm_ci.engines.host_directory import HostDirectory
from vllm_ci.programs.train_model import COMPLETE
from vllm_ci.retraining.training import Trainer, Training

FILES = ("model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json")


class Killed(BaseException):
    """The command ends here, and nothing is tidied up."""


class Engine(toy.ToyEngine):
    """Remembers what a training goes on from."""

    resumed: Path | None = None

    async def run(self, program: Program, *, stop: anyio.Event | None = None) -> Outcome:
        found = program.inputs.get("checkpoint")
        self.resumed = found.path if isinstance(found, HostDirectory) else None
        return await super().run(program, stop=stop)


def saved(out: Path, step: int) -> HostDirectory:
    """What a training has written by the time that it saved this step."""
    place = out / "checkpoints" / f"checkpoint-{step}"
    place.mkdir(parents=True)
    for name in FILES:
        (place / name).write_text(json.dumps({"global_step": step}))
    (place / COMPLETE).touch()
    return HostDirectory(out)


def trainer_in(folder: Path) -> Trainer:
    return Trainer(
        engine=Engine(folder=folder / "work"),
        image=ImageRef(repository="r", digest=toy.IMAGE),
        gpus="none",
        timeout_s=1,
        emit=lambda _: None,
    )


def goes_on_from(trainer: Trainer, folder: Path) -> Path | None:
    """The checkpoint that the next try gets."""
    engine = trainer.engine
    assert isinstance(engine, Engine)
    base, data = checkpoint(folder / "base"), toy.write_rows(folder / "rows")
    anyio.run(
        lambda: trainer.train(
            engine.directory(base), engine.directory(data), Training(), out=folder / "out", kept=folder / "kept"
        )
    )
    return engine.resumed


@pytest.mark.parametrize("step", range(8))
def test_killed_while_a_checkpoint_is_replaced_the_next_try_has_a_whole_one(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, kept = trainer_in(tmp_path), tmp_path / "kept"
    kept.mkdir()
    anyio.run(trainer._keep, saved(tmp_path / "one", 1), kept)
    calls = 0
    rename, remove = Path.rename, shutil.rmtree

    def renamed(place: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls > step:
            raise Killed
        return rename(place, target)

    def removed(place: Path, *, ignore_errors: bool = False) -> None:
        nonlocal calls
        calls += 1
        if calls > step:
            for each in sorted(place.rglob("*.pt")):  # a part of the files is gone
                each.unlink()
            raise Killed
        remove(place, ignore_errors=ignore_errors)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", renamed)
        patched.setattr(shutil, "rmtree", removed)
        try:
            anyio.run(trainer._keep, saved(tmp_path / "two", 2), kept)
        except Killed:
            pass
        else:
            assert step >= calls
    place = goes_on_from(trainer, tmp_path)
    assert place is not None
    assert {each.name for each in place.iterdir()} == {*FILES, COMPLETE}
    assert json.loads((place / "trainer_state.json").read_text())["global_step"] in (1, 2)


def test_a_checkpoint_that_is_not_whole_is_not_kept(tmp_path: Path) -> None:
    trainer, kept = trainer_in(tmp_path), tmp_path / "kept"
    kept.mkdir()
    output = saved(tmp_path / "one", 1)
    (tmp_path / "one" / "checkpoints" / "checkpoint-1" / COMPLETE).unlink()
    anyio.run(trainer._keep, output, kept)
    assert goes_on_from(trainer, tmp_path) is None
