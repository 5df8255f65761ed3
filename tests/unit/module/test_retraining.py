"""The functions for retraining: the command line that they run is run here, on a small engine."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from dagger import dag

from registries.models import checkpoint, safetensors
from unit.module.standin_tool import Ended, Folder, Machine, install
from unit.retraining import toy
from vllm_ci.engines import ENGINES
from vllm_ci.module.enums import Variant
from vllm_ci.module.models import Models
from vllm_ci.module.retraining import Retraining

pytestmark = pytest.mark.anyio

Open = Callable[..., Any]
PLAN = "model: chat\nbase: base@v1\ndata: {folder: data}\nlicense: MIT\n"
CONFIG = "version: 1\nname: story\nmodel: {ref: chat@champion}\n"
ENGINE: list[toy.ToyEngine] = []


@asynccontextmanager
async def opener(*, port: int) -> AsyncIterator[toy.ToyEngine]:  # noqa: ARG001 - as the engines
    yield ENGINE[-1]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(name="engine")
def _engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> toy.ToyEngine:
    ENGINE[:] = [toy.ToyEngine(folder=tmp_path / "work")]
    monkeypatch.setitem(ENGINES, "dagger", f"{__name__}:opener")
    return ENGINE[-1]


@pytest.fixture(name="project")
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    (folder / "serving").mkdir(parents=True)
    (folder / "serving" / "vllm-ci.yaml").write_text(CONFIG)
    (folder / "serving" / "retrain.yaml").write_text(PLAN)
    toy.write_rows(folder / "serving" / "data")
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b.example", "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    for name, value in (("HOME", tmp_path), ("VLLM_CI_HOME", tmp_path / "home")):
        monkeypatch.setenv(name, str(value))
    return folder


@pytest.fixture(name="machine")
def _machine(tmp_path: Path, engine: toy.ToyEngine, monkeypatch: pytest.MonkeyPatch) -> Machine:  # noqa: ARG001
    return install(monkeypatch, tmp_path / "machine")


@pytest.fixture(name="opened")
def _opened(project: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Open:  # noqa: ARG001
    monkeypatch.setattr("vllm_ci.module.session.package", dag.directory)

    def make(kind: Any = Retraining, **more: Any) -> Any:
        return kind(
            **{
                "source": Folder(project),
                "config": "serving/vllm-ci.yaml",
                "by": "Anna <anna@example.com>",
                **more,
            }
        )

    return make


async def base(opened: Open, folder: Path) -> None:
    place = checkpoint(folder / "base")
    (place / toy.PART).write_bytes(safetensors({"b": bytes([20]) * 4096}))
    await opened(Models).add(name="base", path=Folder(place))


@pytest.mark.slow
async def test_a_better_model_is_registered_and_promoted_by_the_engine_of_the_session(
    opened: Open, machine: Machine, engine: toy.ToyEngine, tmp_path: Path
) -> None:
    await base(opened, tmp_path)
    assert "chat would be trained from base@v1" in await opened().check()
    assert not engine.ran, "a check does nothing"
    done = json.loads(await opened(as_json=True).run(promote=True, reason="more rows"))
    assert (done["blessed"], done["version"]["version"]) == (True, "v1")
    assert [(each["alias"], each["version"]) for each in done["aliases"]] == [("challenger", "v1"), ("champion", "v1")]
    assert "train" in engine.ran
    assert machine.nests
    assert (machine.tools[-1].extras, machine.wanted[-1].retrains) == (True, True)
    assert "the trained model is chat@v1 already: nothing to change" in await opened().run(promote=False)
    records = json.loads(await opened(Models, as_json=True).history(name="chat"))["records"]
    assert {each["by"] for each in records} == {"Anna <anna@example.com>"}
    assert records[-1]["reason"] == "more rows"


@pytest.mark.slow
async def test_a_model_that_is_not_better_ends_the_call_and_is_not_registered(
    opened: Open, engine: toy.ToyEngine, tmp_path: Path
) -> None:
    await base(opened, tmp_path)
    engine.learnt = 10
    for asked, message in (
        (opened(), "is not blessed: nothing of chat was registered"),
        (opened(as_json=True), '"blessed": false'),
    ):
        with pytest.raises(Ended, match=message) as ended:
            await asked.run()
        assert ended.value.code == 1
    assert json.loads(await opened(Models, as_json=True).list(name="chat"))["models"] == []


@pytest.mark.slow
async def test_a_training_that_fails_ends_the_call_as_an_error(opened: Open, engine: toy.ToyEngine, tmp_path: Path) -> None:
    await base(opened, tmp_path)
    engine.problem = (1, {"kind": "memory", "message": "needed 9 GB"})
    with pytest.raises(Ended, match=r"(?s)\nthe log\n.*ran out of memory.*smaller train\.batch_size") as ended:
        await opened().run()
    assert ended.value.code == 3
    assert "last.log" not in str(ended.value), "that file would be in a container"
    engine.problem = None
    assert "registered chat@v1" in await opened().run()


@pytest.mark.slow
async def test_given_data_takes_the_place_of_the_data_that_the_file_names(
    opened: Open, machine: Machine, project: Path, tmp_path: Path
) -> None:
    await base(opened, tmp_path)
    (project / "serving" / "retrain.yaml").write_text(PLAN.replace("folder: data", "files: [requests.jsonl]"))
    given = Folder(toy.write_rows(tmp_path / "rows", train=range(7)))
    done = json.loads(await opened(as_json=True, data=given).run())
    assert "--data={in.data}" in machine.words
    assert len((Path(done["steps"][0]["folder"]) / "train.jsonl").read_text().splitlines()) == 7
    (given.place / "test.jsonl").unlink()
    with pytest.raises(Ended, match=r"test\.jsonl has no rows") as ended:
        await opened(data=given).run()
    assert ended.value.code == 1


@pytest.mark.parametrize(
    ("files", "more", "message"),
    [
        ({"serving/retrain.yaml": None}, {}, r"the source has no serving/retrain\.yaml"),
        ({}, {"plan": "../retrain.yaml"}, r"the source has no \.\./retrain\.yaml"),
        ({"serving/retrain.yaml": f"{PLAN}tain: {{}}\n"}, {}, r"serving/retrain\.yaml:5: unknown key tain"),
        ({"retrain.yaml": PLAN}, {"plan": "retrain.yaml"}, r"(?s)does not belong to serving.*missing"),
        (
            {"serving/chat/vllm-ci.yaml": CONFIG, "serving/chat/retrain.yaml": PLAN},
            {"plan": "serving/chat/retrain.yaml"},
            r"(?s)does not belong to serving.*--config serving/chat/vllm-ci\.yaml",
        ),
        (
            {"serving/retrain.yaml": PLAN.replace("folder: data", "files: [a.jsonl]")},
            {},
            r"(?s)data\.files cannot be collected in a container.*rows were removed.*--data",
        ),
        (
            {"serving/retrain.yaml": PLAN.replace("folder: data", "requests: [production]")},
            {},
            r"data\.requests cannot be collected in a container",
        ),
        (
            {"serving/retrain.yaml": PLAN.replace("folder: data", "folder: ../../data")},
            {},
            r"(?s)\.\./data is not in the source.*--data",
        ),
        ({"serving/retrain.yaml": PLAN.replace("folder: data", "folder: nothing")}, {}, "serving/nothing is not in the source"),
        ({}, {"variant": Variant.CPU}, "--variant has no effect on a retraining"),
        ({}, {"spec": "images/x.yaml"}, "--spec has no effect"),
        ({}, {"checkpoint": Folder(Path("/"))}, "--checkpoint has no effect"),
        ({}, {"api_key": Folder(Path("/"))}, "--api-key has no effect"),
    ],
)
async def test_what_cannot_work_is_refused_before_a_container_starts(
    opened: Open, machine: Machine, project: Path, files: dict[str, str | None], more: dict[str, Any], message: str
) -> None:
    for name, text in files.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).unlink() if text is None else (project / name).write_text(text)
    for call in (opened(**more).check, opened(**more).run):
        with pytest.raises(Ended, match=message) as ended:
            await call()
        assert ended.value.code == 2
    assert not machine.programs


async def test_what_the_engine_is_asked_for_inside_is_what_was_asked_of_the_module(
    opened: Open, machine: Machine, project: Path
) -> None:
    """The command asks the same engine again: in the container it knows neither options nor variables of the caller."""

    class Given:
        async def plaintext(self) -> str:
            return "x"

    config = project / "serving" / "vllm-ci.yaml"
    config.write_text(f"{CONFIG}server: {{api_key_env: LLM_KEY}}\n")
    (project / "serving" / "retrain.yaml").write_text(f"{PLAN}train: {{gpus: '1'}}\n")
    machine.checked_only = True
    key: Any = Given()
    await opened(python_image="mirror.example.com/python:3.12-slim", cache="team", gpus="all", api_key=key).run()
    assert {"--engine=dagger", "--gpus=all"} <= set(machine.words)
    assert machine.wanted[-1].gpus == "1", "a device that is missing is noticed before anything is built"
    tool = machine.tools[-1]
    expected = {"VLLM_CI_PYTHON_IMAGE": "mirror.example.com/python:3.12-slim", "VLLM_CI_CACHE": "team"}
    assert expected.items() <= tool.variables.items()
    assert tool.secrets["LLM_KEY"] is key
    assert machine.programs[-1].timeout_s > 24 * 3600, "the training alone may take a day"


async def test_a_setting_of_the_file_that_turns_promotion_on_can_be_turned_off(opened: Open, machine: Machine) -> None:
    machine.checked_only = True
    for promote, flags in ((None, []), (True, ["--promote"]), (False, ["--no-promote"])):
        await opened().run(promote=promote)
        assert [word for word in machine.words if word.endswith("promote")] == flags
