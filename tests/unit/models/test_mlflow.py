"""Models of a registry of MLflow: by its real command line where it is installed, and by a stand-in for odd models."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from registries.models import checkpoint
from unit.models.test_cli import Call, _call, good
from vllm_ci.models import mlflow

__all__ = ["_call"]

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
FLAVOR = "flavors:\n  transformers:\n    model_binary: {binary}\n    components: [{components}]\n"


def logged(folder: Path, *, binary: str = "model", components: str = "tokenizer") -> Path:
    """A model as the flavor `transformers` logs it: weights and tokenizer in folders of their own."""
    checkpoint(folder / "model")
    (folder / "components/tokenizer").mkdir(parents=True)
    for name in TOKENIZER:
        (folder / "components/tokenizer" / name).write_text("{}")
    (folder / "components/tokenizer/config.json").write_text('{"model_type": "other"}')
    (folder / "MLmodel").write_text(FLAVOR.format(binary=binary, components=components))
    (folder / "registered_model_meta").write_text("model_name: chat\nmodel_version: '3'\n")
    (folder / "conda.yaml").write_text("name: x\n")
    return folder


@pytest.fixture(name="stand_in")
def _stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Puts a program `mlflow` first on PATH, which gives this folder for any model."""

    def make(given: Path) -> None:
        program = tmp_path / "bin/mlflow"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\n[ "$3 $4" = "--artifact-uri models:/chat@best" ] || exit 9\ncp -r {given}/. "$6"\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=":")

    return make


@pytest.mark.slow
def test_weights_and_tokenizer_become_one_checkpoint(call: Call, stand_in: Callable[[Path], None], tmp_path: Path) -> None:
    stand_in(logged(tmp_path / "logged"))
    added = json.loads(good(call("add", "chat", "--mlflow", "models:/chat@best", "--json")))
    paths = {each["path"] for each in added["files"]}
    assert {*TOKENIZER, "config.json"} < paths
    assert not {"MLmodel", "conda.yaml", "registered_model_meta"} & paths
    assert added["facts"]["revision"] == "3"
    assert added["facts"]["family"] != "other", "the configuration beside the weights is the model's"
    assert not list((tmp_path / "home/tmp").glob("mlflow-*"))


@pytest.mark.slow
def test_a_checkpoint_that_was_logged_as_a_folder_is_taken_as_it_is(
    call: Call, stand_in: Callable[[Path], None], tmp_path: Path
) -> None:
    checkpoint(tmp_path / "logged/inner")
    (tmp_path / "logged/inner/MLmodel").write_text("flavors: {python_function: {loader_module: x}}\n")
    stand_in(tmp_path / "logged")
    added = json.loads(good(call("add", "chat", "--mlflow", "models:/chat@best", "--json")))
    assert added["facts"]["revision"] == "chat@best"
    assert len(added["files"]) == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("binary", "components", "code", "said"),
    [
        ("../../etc", "tokenizer", 1, "MLmodel names a part outside of the model: '../../etc'"),
        ("..", "tokenizer", 1, "MLmodel names a part outside of the model: '..'"),
        ("model", "../model", 1, "MLmodel names a part outside of the model: '../model'"),
        ("model", "7", 1, "MLmodel names a part outside of the model: 7"),
        ("weights", "tokenizer", 2, "the model of MLflow has no folder weights"),
        ("[", "tokenizer", 2, "MLmodel of the model cannot be read"),
    ],
)
def test_a_description_that_leads_elsewhere_is_refused(
    call: Call, stand_in: Callable[[Path], None], tmp_path: Path, binary: str, components: str, code: int, said: str
) -> None:
    stand_in(logged(tmp_path / "logged", binary=binary, components=components))
    done = call("add", "chat", "--mlflow", "models:/chat@best")
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


@pytest.mark.slow
def test_a_pickle_in_a_registered_model_is_refused(call: Call, stand_in: Callable[[Path], None], tmp_path: Path) -> None:
    folder = logged(tmp_path / "logged")
    (folder / "model/pytorch_model.bin").write_bytes(pickle.dumps(print))
    stand_in(folder)
    done = call("add", "chat", "--mlflow", "models:/chat@best")
    assert (done.returncode, "opcode STACK_GLOBAL" in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize(
    "uri", ["chat", "models:/chat", "models:/chat/", "models:/chat/best", "models:/a/b/1", "runs:/1/x", "--help"]
)
def test_what_names_no_version_is_refused(call: Call, uri: str) -> None:
    done = call("add", "chat", f"--mlflow={uri}")
    assert (done.returncode, "write models:/NAME/VERSION" in done.stderr) == (2, True), done.stderr


def test_without_mlflow_it_is_said_how_to_get_it(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mlflow, "_PROGRAM", str(tmp_path / "mlflow"))
    done = call("add", "chat", "--mlflow", "models:/chat/1")
    assert (done.returncode, "mlflow was not found" in done.stderr) == (2, True), done.stderr
    assert "pipx install mlflow-skinny" in done.stderr


@pytest.mark.slow
@pytest.mark.needs_tool
@pytest.mark.skipif(not shutil.which("mlflow"), reason="mlflow is not on PATH (pipx install mlflow)")
def test_a_model_of_a_real_registry_is_added_by_alias(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = logged(tmp_path / "logged")
    (place / "registered_model_meta").unlink()  # written by the registry
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    register = (
        "import sys, mlflow\n"
        "client = mlflow.MlflowClient()\n"
        "client.create_registered_model('chat')\n"
        "made = client.create_model_version('chat', source=sys.argv[1])\n"
        "client.set_registered_model_alias('chat', 'best', made.version)\n"
    )
    python = Path(str(shutil.which("mlflow"))).resolve().parent / "python"
    subprocess.run([python, "-c", register, str(place)], check=True, capture_output=True)
    added = json.loads(good(call("add", "chat", "--mlflow", "models:/chat@best", "--json")))
    assert added["facts"]["revision"] == "1"
    assert {*TOKENIZER, "config.json"} < {each["path"] for each in added["files"]}
    done = call("add", "chat", "--mlflow", "models:/chat/7")
    assert (done.returncode, "MLflow does not give models:/chat/7" in done.stderr) == (3, True), done.stderr
