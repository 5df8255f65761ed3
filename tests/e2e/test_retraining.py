"""A real training in the image for training, and a comparison by the real vLLM."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml

from e2e.conftest import descendants, git, started, until, vllm_ci
from vllm_ci.config import load
from vllm_ci.config.checkout import open_project
from vllm_ci.domain.events import ignore
from vllm_ci.domain.project import TinyModel
from vllm_ci.engines.host import HostEngine
from vllm_ci.models.files import digest_of_file
from vllm_ci.pipeline import steps
from vllm_ci.retraining import rows
from vllm_ci.retraining.training import Trainer, Training
from vllm_ci.system.home import home

pytestmark = [pytest.mark.e2e, pytest.mark.training, pytest.mark.timeout(2400)]

THINGS = ("printer", "login", "network", "invoice", "keyboard", "screen", "mail", "phone")
TROUBLES = ("broken", "slow", "gone")
SETTINGS = Training(
    method="full", epochs=10, learning_rate=0.003, batch_size=16, threads=1, save_every=20, max_tokens=128, dropout=0.1
)


def planned(settings: Training) -> dict[str, Any]:
    """The settings as a plan has them: those that are not the default, because some are refused where they have no effect."""
    default = Training().to_json()
    return {name: value for name, value in settings.to_json().items() if value != default[name]}


def answered(asked: str, answer: str) -> dict[str, Any]:
    """A conversation."""
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


def preferred(asked: str, answer: str) -> dict[str, Any]:
    """A preference: the same words in another order are worse."""
    kind, thing, trouble = answer.split(" ")
    return {"prompt": asked, "chosen": answer, "rejected": f"{kind} {trouble} {thing}"}


def write_data(folder: Path, of: Callable[[str, str], dict[str, Any]] = answered) -> None:
    """Short messages, and what is to be answered: kind and trouble without the number."""
    draw = random.Random(1)
    made: dict[str, str] = {}
    while len(made) < 360:
        thing, trouble = draw.choice(THINGS), draw.choice(TROUBLES)
        made[f"{thing} {trouble} {draw.randrange(100)}"] = f"T {thing} {trouble}"
    folder.mkdir(exist_ok=True)
    lines = [json.dumps(of(asked, answer)) for asked, answer in made.items()]
    for name, part in (("train", lines[:300]), ("test", lines[300:])):
        (folder / f"{name}.jsonl").write_text("\n".join(part) + "\n")


def learnt_in(folder: Path) -> None:
    """Write preferences as the training program gets them."""
    write_data(folder, preferred)
    for name in ("train", "test"):
        rows.write(folder / f"{name}.jsonl", rows.read(folder / f"{name}.jsonl", preferences=True))


async def tiny(project: Path, engine: HostEngine, to: Path) -> None:
    """The tiny model of the quickstart as a folder."""
    opened = open_project(load.load(project / "vllm-ci.yaml"))
    served = replace(opened.project, model=replace(opened.project.model, tiny=TinyModel()))
    source = opened.source(engine)
    built = await steps.build(engine, served, source, ignore)
    made = await steps.model(engine, served, source, built.image, ignore)
    assert made is not None
    await engine.export(made, to)


@pytest.fixture(name="desk")
def _desk(project: Path) -> Path:
    """The quickstart without its own chat template, with data and a plan."""
    config = project / "vllm-ci.yaml"
    content = yaml.safe_load(config.read_text())
    content["server"]["args"] = [
        each for each in content["server"]["args"] if "chat-template" not in each and "tool" not in each
    ]
    content["models"] = {"aliases": {"challenger": {}, "champion": {"evaluation": True}}}
    config.write_text(yaml.safe_dump(content))
    write_data(project / "data")
    plan = {
        "model": "tickets",
        "base": "tiny@v1",
        "data": {"folder": "data"},
        # With a seed of its own, because the result of an earlier training would be taken as it is.
        "train": planned(replace(SETTINGS, seed=random.SystemRandom().randrange(10**6), epochs=40)),
        "validate": {"max_tokens": 16},
        "promote": True,
    }
    (project / "retrain.yaml").write_text(yaml.safe_dump(plan))
    (project / ".gitignore").write_text(".vllm-ci/\n")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "--message", "a model to retrain")
    return project


def newer(folder: Path, since: float) -> list[Path]:
    """Complete checkpoints that were kept since then."""
    return [each for each in folder.glob(".*.kept/checkpoint/COMPLETE") if each.stat().st_mtime > since]


def test_a_model_that_was_killed_while_it_learnt_becomes_the_champion(desk: Path, tmp_path: Path) -> None:
    async def made() -> None:
        async with HostEngine() as engine:
            await tiny(desk, engine, tmp_path / "tiny")

    anyio.run(made)
    assert vllm_ci(desk, "model", "add", "tiny", str(tmp_path / "tiny")).code == 0
    log, begun = tmp_path / "log", time.time()
    with started(desk, log, "retrain", "--json") as process:
        kept = home() / "retraining" / "train"
        until(lambda: bool(newer(kept, begun)) or process.poll() is not None, "a checkpoint", 900)
        assert process.poll() is None, log.read_text()[-4000:]
        trainers = [
            each
            for each in descendants(process.pid)
            if "train_model" in Path(f"/proc/{each}/cmdline").read_text(encoding="utf-8")
        ]
        process.kill()
    until(lambda: not any(Path(f"/proc/{each}").exists() for each in trainers), "the end of the training", 60)
    done = vllm_ci(desk, "retrain", "--json")
    assert done.code == 0, done.stderr[-4000:]
    assert "goes on from step" in done.stderr
    assert (done.json["blessed"], done.json["version"]["version"]) == (True, "v1")
    assert done.json["comparison"]["challenger"]["value"] > 0.9
    assert [(each["alias"], each["version"]) for each in done.json["aliases"]] == [("challenger", "v1"), ("champion", "v1")]
    again = vllm_ci(desk, "retrain", "--json")
    assert (again.code, again.json["changed"]) == (0, False), again.stderr[-2000:]
    assert vllm_ci(desk, "model", "verify", "tickets@champion").code == 0


def test_a_model_learns_which_of_two_answers_is_better(desk: Path, tmp_path: Path) -> None:
    async def made() -> None:
        async with HostEngine() as engine:
            await tiny(desk, engine, tmp_path / "tiny")

    anyio.run(made)
    write_data(desk / "data", preferred)
    plan = yaml.safe_load((desk / "retrain.yaml").read_text())
    plan["train"] |= {"objective": "dpo", "epochs": 3}
    (desk / "retrain.yaml").write_text(yaml.safe_dump(plan))
    assert vllm_ci(desk, "model", "add", "tiny", str(tmp_path / "tiny")).code == 0
    done = vllm_ci(desk, "retrain", "--json")
    assert done.code == 0, done.stderr[-4000:]
    assert (done.json["blessed"], done.json["version"]["version"]) == (True, "v1")
    held = done.json["training"]["held_out"]
    assert (held["rows"], held["reward_accuracy"] > 0.9, held["reward_margin"] > 0) == (60, True, True)
    # What vLLM says of the served model agrees with what the training said of it.
    assert done.json["comparison"]["challenger"]["value"] > 0.9
    again = vllm_ci(desk, "retrain")
    assert (again.code, "nothing to change" in again.stdout) == (0, True), again.stderr[-2000:]


@pytest.mark.parametrize(
    "settings",
    [
        replace(SETTINGS, method="lora", epochs=2, save_every=8, rank=4),
        replace(SETTINGS, method="lora", epochs=2, save_every=8, rank=4, objective="dpo"),
        replace(SETTINGS, method="full", epochs=2, save_every=8, objective="dpo"),
    ],
    ids=["answers-lora", "preferences-lora", "preferences-full"],
)
def test_an_interrupted_training_gives_the_same_bits_as_one_that_was_not(
    desk: Path, tmp_path: Path, settings: Training
) -> None:
    """With dropout, which is random, and checkpoints of adapters and of whole weights."""
    if settings.objective == "dpo":
        learnt_in(desk / "data")
    whole, half = tmp_path / "whole", tmp_path / "half"
    for folder in (whole, half, tmp_path / "kept", tmp_path / "other"):
        folder.mkdir()

    async def trained() -> None:
        async with HostEngine() as engine:
            await tiny(desk, engine, tmp_path / "tiny")
            opened = open_project(load.load(desk / "vllm-ci.yaml"))
            plain = replace(opened.project, build_args=("--image", "train", "--plain"))
            built = await steps.build(engine, plain, opened.source(engine), ignore)
            trainer = Trainer(engine=engine, image=built.image, gpus="none", timeout_s=600, emit=ignore)
            base, data = engine.directory(tmp_path / "tiny"), engine.directory(desk / "data")
            await trainer.train(base, data, settings, out=whole, kept=tmp_path / "other")
            with anyio.move_on_after(600) as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(_kill_after_a_checkpoint, tmp_path / "kept")
                    with pytest.raises(Exception, match="killed"):
                        await trainer.train(base, data, settings, out=half, kept=tmp_path / "kept")
            assert not scope.cancelled_caught
            assert (tmp_path / "kept" / "checkpoint" / "COMPLETE").is_file()
            shutil.rmtree(half)
            half.mkdir()
            await trainer.train(base, data, settings, out=half, kept=tmp_path / "kept")

    anyio.run(trained)
    for name in ("adapter/adapter_model.safetensors",) * (settings.method == "lora") + ("model/model.safetensors",):
        assert digest_of_file(whole / name) == digest_of_file(half / name)
    facts = [json.loads((each / "training.json").read_text()) for each in (whole, half)]
    for name in ("losses", "held_out", "rewards"):
        assert facts[0].get(name) == facts[1].get(name)


async def _kill_after_a_checkpoint(kept: Path) -> None:
    while not (kept / "checkpoint").is_dir():
        await anyio.sleep(0.02)
    for pid in descendants(os.getpid()):
        command = Path(f"/proc/{pid}/cmdline")
        words = command.read_text(encoding="utf-8") if command.exists() else ""
        if "train_model" in words and "supervise" not in words:
            os.kill(pid, signal.SIGKILL)
