"""``retrain.yaml``: what is refused, and with which message."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from unit.retraining import toy
from vllm_ci.config import retraining
from vllm_ci.domain.errors import ConfigError, FailedError, UsageError
from vllm_ci.retraining.training import Training

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
