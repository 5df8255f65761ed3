"""``retrain.yaml``: what is refused, and with which message."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import pytest

from registries.models import checkpoint
from unit.retraining import toy
from vllm_ci.cli.retrain import _in_source
from vllm_ci.config import retraining
from vllm_ci.datasets.store import Store
from vllm_ci.domain.errors import ConfigError, FailedError, UsageError
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.program import Outcome, Program
from vllm_ci.engine import Capabilities
from vllm_ci.retraining.training import Trainer, Training

GOOD = "version: 1\nmodel: chat\nbase: base@v1\ndata: {folder: data}\n"


def written(folder: Path, text: str) -> Path:
    (folder / "data").mkdir(exist_ok=True)
    toy.write_rows(folder / "data")
    place = folder / "retrain.yaml"
    place.write_text(text)
    return place


def test_a_short_file_has_sensible_values(tmp_path: Path) -> None:
    place = written(tmp_path, GOOD)
    plan = retraining.plan(retraining.read(place), place)
    assert (plan.name, str(plan.base), plan.training, plan.promote) == ("chat", "base@v1", Training(), False)
    assert set(plan.environment) == {"spec", "wheels", "packages", "program"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tain: {}", r"retrain\.yaml:5: unknown key tain.*did you mean train"),
        ("train: {epoch: 3}", r"unknown key train\.epoch.*did you mean epochs"),
        ("train: {epochs: 0}", r"train\.epochs is not valid.*docs/retraining\.md"),
        ("train: {learning_rate: .nan}", r"train\.learning_rate is not valid"),
        ("train: {method: dpo}", r"train\.method is not valid"),
        ("train: {objective: ppo}", r"train\.objective is not valid"),
        ("train: {beta: 0.2}", "beta has no effect without `objective: dpo`"),
        ("train: {objective: dpo, targets: [q_proj, lm_head]}", "lm_head cannot have an adapter"),
        ("train: {objective: dpo, beta: 0}", r"train\.beta is not valid"),
        ("train: {objective: dpo}", r"lines of train\.jsonl that are not preferences: 40.*line 1: it has no `chosen`"),
        ("train: {image: nothing}", "no image spec nothing"),
        ("validate: {confidence: 1}", r"validate\.confidence is not valid"),
        ("champion: No", "champion is not valid"),
        ("challenger: champion", "champion and challenger are one alias"),
    ],
)
def test_a_setting_that_is_not_valid_is_named_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    place = written(tmp_path, f"{GOOD}{line}\n")
    with pytest.raises((UsageError, FailedError)) as error:
        retraining.plan(retraining.read(place), place)
    assert re.search(message, str(error.value).replace("\n", " ")), str(error.value)


def test_preferences_are_learnt_by_choice(tmp_path: Path) -> None:
    place = written(tmp_path, f"{GOOD}train: {{objective: dpo, method: full, beta: 0.05}}\n")
    toy.write_rows(tmp_path / "data", of=toy.preference)
    plan = retraining.plan(retraining.read(place), place)
    assert plan.training == Training(objective="dpo", method="full", beta=0.05)


@pytest.mark.parametrize("base", ["chat@champion", "chat", "Chat@v1", "chat@v0"])
def test_a_base_that_can_change_is_refused(tmp_path: Path, base: str) -> None:
    place = written(tmp_path, GOOD.replace("base@v1", base))
    with pytest.raises(ConfigError, match="base"):
        retraining.plan(retraining.read(place), place)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{}", "either a folder"),
        ("{folder: data, files: [a.jsonl]}", "either a folder"),
        ("{folder: nowhere}", "there is no folder"),
        ("{files: [nothing.jsonl]}", "there is no file"),
        ("{files: [data/train.jsonl], fractions: [0.5, 0.1, 0.1]}", "sum up to 0.7"),
    ],
)
def test_data_that_is_not_there_is_refused(tmp_path: Path, data: str, message: str) -> None:
    place = written(tmp_path, GOOD.replace("{folder: data}", data))
    with pytest.raises(ConfigError, match=message):
        retraining.plan(retraining.read(place), place)


def test_a_folder_without_test_rows_is_refused(tmp_path: Path) -> None:
    place = written(tmp_path, GOOD)
    (tmp_path / "data" / "test.jsonl").unlink()
    with pytest.raises(FailedError, match=r"test\.jsonl has no rows"):
        retraining.plan(retraining.read(place), place)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*retrain\.yaml"):
        retraining.read(tmp_path / "retrain.yaml")


def test_given_data_takes_the_place_of_what_the_file_names(tmp_path: Path) -> None:
    place = written(tmp_path, GOOD.replace("folder: data", "files: [requests.jsonl]"))
    given = toy.write_rows(tmp_path / "prepared")
    plan = retraining.plan(retraining.read(place), place, data=given)
    assert plan.data(tmp_path, lambda _: None).folder == given
    (given / "test.jsonl").unlink()
    with pytest.raises(FailedError, match=r"test\.jsonl has no rows"):
        retraining.plan(retraining.read(place), place, data=given)


@pytest.mark.parametrize("copied", [False, True])
def test_given_data_that_is_a_version_is_compared_with_its_manifest_and_named(tmp_path: Path, *, copied: bool) -> None:
    with Store(folder=tmp_path / "store").writing() as folder:
        (folder / "test.jsonl").write_text(json.dumps(toy.row(100)) + "\n")
        (folder / "train.jsonl").write_text(json.dumps(toy.row(1)) + "\n")
        made = Store(folder=tmp_path / "store").finish("prepared", folder, {"collected": "sha256:" + "c" * 64})
    given = made.folder
    if copied:
        given = Path(shutil.copytree(made.folder, tmp_path / "copy"))
    place = written(tmp_path, GOOD)
    plan = retraining.plan(retraining.read(place), place, data=given)
    found = plan.data(tmp_path, lambda _: None)
    assert found.versions == {"prepared data": made.digest, "collected data": "sha256:" + "c" * 64}
    (given / "train.jsonl").chmod(0o644)
    (given / "train.jsonl").write_text(json.dumps(toy.row(2)) + "\n")
    for call in (
        lambda: plan.data(tmp_path, lambda _: None),
        lambda: retraining.plan(retraining.read(place), place, data=given),
    ):
        with pytest.raises(FailedError, match=r"train\.jsonl was altered"):
            call()


def test_a_folder_with_a_manifest_of_another_program_is_a_folder(tmp_path: Path) -> None:
    place = written(tmp_path, GOOD)
    for content in ("{}", "[]", "x", '{"kind": "prepared"}'):
        (tmp_path / "data" / "manifest.json").write_text(content)
        assert retraining.plan(retraining.read(place), place).data(tmp_path, lambda _: None).versions == {}


def test_a_spec_of_the_checkout_is_named_by_its_place_in_it(tmp_path: Path) -> None:
    """The builder may run in a container, where the checkout has another path."""
    (tmp_path / "serving").mkdir()
    assert _in_source(str(tmp_path / "serving" / "train.yaml"), tmp_path) == "{in.source}/serving/train.yaml"
    assert _in_source("/elsewhere/train.yaml", tmp_path) == "/elsewhere/train.yaml"
    assert _in_source("train", tmp_path) == "train"


@pytest.mark.parametrize(
    ("gpus", "isolated", "device"),
    [("none", True, ""), ("none", False, ""), ("all", True, "0"), ("all", False, "0"), ("1", False, "1"), ("1", True, "0")],
)
def test_one_device_is_trained_on_by_its_number_there(tmp_path: Path, gpus: str, isolated: bool, device: str) -> None:
    """In a container with one device it is device 0."""
    asked: list[Program] = []

    class Engine(toy.ToyEngine):
        @property
        def capabilities(self) -> Capabilities:
            return replace(super().capabilities, isolated=isolated)

        async def run(self, program: Program, *, stop: anyio.Event | None = None) -> Outcome:
            asked.append(program)
            return await super().run(program, stop=stop)

    engine, base = Engine(folder=tmp_path / "work"), checkpoint(tmp_path / "base")
    trainer = Trainer(
        engine=engine, image=ImageRef(repository="r", digest=toy.IMAGE), gpus=gpus, timeout_s=1, emit=lambda _: None
    )
    (tmp_path / "kept").mkdir()
    data = toy.write_rows(tmp_path / "rows")
    directories = engine.directory(base), engine.directory(data)
    run = partial(trainer.train, *directories, Training(), out=tmp_path / "out", kept=tmp_path / "kept")
    anyio.run(run)
    assert (asked[0].gpus, asked[0].env["CUDA_VISIBLE_DEVICES"]) == (gpus, device)
