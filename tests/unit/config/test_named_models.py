"""Models that a configuration names, for `--model NAME`."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_ci.config.load import Loaded, Override, load
from vllm_ci.domain.errors import ConfigError
from vllm_ci.domain.project import ModelSpec

NAMED = """
model: {served_name: small, tiny: {layers: 3}}
server: {args: [--dtype=float32, --chat-template, a.jinja, --max-model-len=512], env: {A: "1", B: "1"}}
models:
  named:
    big: {wheel: locks/big.lock, args: [--max-model-len=1024], leave_out: [--chat-template], env: {B: "2"}}
    other: {name: org/other, revision: abc, served_name: chat}
    released: {ref: chat@champion}
"""


def loaded(folder: Path, use: str, text: str = NAMED) -> Loaded:
    (folder / "vllm-ci.yaml").write_text(text)
    return load(folder / "vllm-ci.yaml", {"model.tiny": Override(value=None, origin="x")} | chosen(use))


def chosen(use: str) -> dict[str, Override]:
    return {"model.use": Override(value=use, origin="flag --model")}


def test_a_named_model_takes_the_place_of_the_configured_one(tmp_path: Path) -> None:
    found = loaded(tmp_path, "big").config
    assert found.model.domain() == ModelSpec(served_name="big", wheel="locks/big.lock")
    assert found.server.args == ["--dtype=float32", "--max-model-len=512", "--max-model-len=1024"]
    assert found.server.env == {"A": "1", "B": "2"}
    assert loaded(tmp_path, "other").config.model.domain() == ModelSpec(served_name="chat", name="org/other", revision="abc")
    assert loaded(tmp_path, "released").config.model.domain() == ModelSpec(served_name="chat", ref="chat@champion")


def test_the_file_can_choose_one_as_well(tmp_path: Path) -> None:
    text = NAMED.replace("model: {served_name: small, tiny: {layers: 3}}", "model: {use: big}")
    (tmp_path / "vllm-ci.yaml").write_text(text)
    assert load(tmp_path / "vllm-ci.yaml").config.model.domain().wheel == "locks/big.lock"


def test_the_origin_of_its_values_is_where_it_is_described(tmp_path: Path) -> None:
    found = {key: origin for key, _, origin in loaded(tmp_path, "big").values()}
    file = tmp_path / "vllm-ci.yaml"
    assert found["model.use"] == "flag --model"
    assert found["model.wheel"] == found["server.args"] == found["server.env.B"] == f"{file}:6"
    assert (found["model.path"], found["server.env.A"]) == ("default", f"{file}:3")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: {use: bigg}\nmodels: {named: {big: {path: x}}}", "did you mean big?"),
        ("model: {use: x}", "choose one of tiny"),
        ("model: {use: big, path: y}\nmodels: {named: {big: {path: x}}}", "set only one of"),
        ("models: {named: {big: {path: x, wheel: y}}}", "set only one of"),
        ("models: {named: {big: {use: other}, other: {path: x}}}", "cannot use another one"),
        ("models: {named: {tiny: {path: x}}}", "tiny is the generated model"),
        ("models: {named: {org/name: {path: x}}}", "should match pattern"),
        ("models: {named: {big: {wheel: /etc/x.lock}}}", "is absolute"),
        ("models: {named: {big: {wheel: ../x.lock}}}", "x.lock"),
        ("models: {named: {big: {weel: x.lock}}}", "did you mean wheel?"),
        ("models: {named: {big: {leave_out: [chat-template]}}}", "should match pattern"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "vllm-ci.yaml").write_text(text + "\n")
    with pytest.raises(ConfigError) as error:
        load(tmp_path / "vllm-ci.yaml")
    assert said in str(error.value)
