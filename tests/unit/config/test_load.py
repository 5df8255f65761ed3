from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from vllm_ci.config import load, schema
from vllm_ci.config.load import Override
from vllm_ci.domain.errors import ConfigError
from vllm_ci.domain.stage import AcceptedKnown


def written(folder: Path, text: str) -> Path:
    path = folder / "vllm-ci.yaml"
    path.write_text(text)
    return path


def refused(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load.load(written(folder, text))
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_an_empty_file_is_a_configuration_of_defaults(tmp_path: Path) -> None:
    loaded = load.load(written(tmp_path, ""))
    assert loaded.config.model.domain().tiny is not None
    assert loaded.name == tmp_path.name
    assert {origin for _, _, origin in loaded.values()} == {"default"}


def test_an_unknown_key_is_refused_with_line_and_nearest_name(tmp_path: Path) -> None:
    message = refused(tmp_path, "version: 1\nserver:\n  prot: 8000\n")
    assert "vllm-ci.yaml:3" in message
    assert "server.prot" in message
    assert "did you mean port?" in message


def test_an_unknown_key_far_from_all_names_lists_them(tmp_path: Path) -> None:
    assert "allowed keys: version, name, engine" in refused(tmp_path, "zzzzzzzz: 1\n")


def test_an_unknown_key_inside_a_list_has_its_line(tmp_path: Path) -> None:
    message = refused(tmp_path, "image:\n  overlays:\n    - from: a\n      to: /a\n      exclud: [b]\n")
    assert "vllm-ci.yaml:5" in message
    assert "did you mean exclude?" in message


def test_a_value_of_the_wrong_kind_is_told_with_line_and_value(tmp_path: Path) -> None:
    message = refused(tmp_path, "server:\n  args: []\n  port: eight\n")
    assert "vllm-ci.yaml:3" in message
    assert "'eight'" in message


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, "server:\n  port: 1\n  port: 2\n")
    assert "vllm-ci.yaml:3" in message
    assert "twice" in message


@pytest.mark.parametrize("text", ["- a\n- b\n", "server: [\n", "a: b: c\n", "\x00"])
def test_what_is_no_mapping_or_no_yaml_is_refused(tmp_path: Path, text: str) -> None:
    assert "vllm-ci.yaml" in refused(tmp_path, text)


def test_several_sources_of_a_model_are_refused(tmp_path: Path) -> None:
    assert "set only one of" in refused(tmp_path, "model:\n  path: a\n  name: b\n")


def test_a_missing_file_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--config"):
        load.load(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="--config"):
        load.find(tmp_path)


def test_it_is_found_in_a_folder_above(tmp_path: Path) -> None:
    path = written(tmp_path, "")
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert load.find(tmp_path / "a" / "b") == path


def test_every_value_says_where_it_comes_from(tmp_path: Path) -> None:
    path = written(tmp_path, "server:\n  port: 8000\n  args:\n    - --a\n")
    loaded = load.load(path, {"server.gpus": Override(value="all", origin="flag --gpus")})
    origins = {key: (value, origin) for key, value, origin in loaded.values()}
    assert origins["server.port"] == (8000, f"{path}:2")
    assert origins["server.args"] == (["--a"], f"{path}:3")
    assert origins["server.gpus"] == ("all", "flag --gpus")
    assert origins["server.stop_grace_s"] == (30.0, "default")


def test_a_bad_override_names_the_flag_not_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="flag --gpus"):
        load.load(written(tmp_path, ""), {"server.gpus": Override(value="many", origin="flag --gpus")})


def test_the_schema_in_the_repository_is_the_one_of_the_code() -> None:
    assert schema.FILE.read_text() == schema.text(), "write it anew: python -m vllm_ci.config.schema"


def test_every_setting_is_described_in_the_schema() -> None:
    def settings(node: object) -> list[tuple[str, dict[str, object]]]:
        if isinstance(node, dict):
            own = list(node.get("properties", {}).items())
            return own + [pair for value in node.values() for pair in settings(value)]
        return []

    bare = [name for name, node in settings(json.loads(schema.text())) if "description" not in node and "$ref" not in node]
    assert not bare


@pytest.mark.parametrize(
    "name", ["PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "HOME", "VLLM_CI_HOME", "HOME=MY_TOKEN", "no name", ""]
)
def test_a_secret_whose_name_a_program_needs_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "vllm-ci.yaml"
    path.write_text(f'version: 1\nserver:\n  secrets: ["HF_TOKEN", "{name}"]\n')
    with pytest.raises(ConfigError, match=r"vllm-ci\.yaml:3"):
        load.load(path)
    path.write_text(f'version: 1\nserver:\n  api_key_env: "{name or "PATH"}"\n')
    with pytest.raises(ConfigError, match=r"vllm-ci\.yaml:3"):
        load.load(path)


def test_secrets_may_be_handed_through_under_another_name(tmp_path: Path) -> None:
    path = tmp_path / "vllm-ci.yaml"
    path.write_text("version: 1\nserver:\n  secrets: [HF_TOKEN, HF_TOKEN2=PATH]\n")
    assert load.load(path).config.server.secrets == ["HF_TOKEN", "HF_TOKEN2=PATH"]


def accepting(tmp_path: Path, entry: str) -> Path:
    path = tmp_path / "vllm-ci.yaml"
    path.write_text(f"version: 1\nstages:\n  security:\n    accept:\n      - {entry}\n", encoding="utf-8")
    return path


def test_findings_that_are_known_of_the_version_can_be_accepted_in_one_entry(tmp_path: Path) -> None:
    loaded = load.load(accepting(tmp_path, "{known: vllm, until: 2027-12-31}"))
    assert loaded.config.stages.specs()["security"].accept == (AcceptedKnown(known="vllm", until=dt.date(2027, 12, 31)),)
    loaded = load.load(accepting(tmp_path, "{known: vllm, up_to: low, reason: r, until: 2027-12-31}"))
    (entry,) = loaded.config.stages.specs()["security"].accept
    assert entry == AcceptedKnown(known="vllm", up_to="low", reason="r", until=dt.date(2027, 12, 31))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("{known: vllm}", "until"),
        ("{known: sglang, until: 2027-12-31}", "known"),
        ("{known: vllm, id: x, reason: r, until: 2027-12-31}", "either `id` or `known`"),
        ("{reason: r, until: 2027-12-31}", "either `id` or `known`"),
        ("{id: x, until: 2027-12-31}", "add `reason`"),
        ("{known: vllm, up_to: critical, until: 2027-12-31}", "up_to"),
        ("{id: x, reason: r, up_to: low, until: 2027-12-31}", "only for an entry with `known`"),
    ],
)
def test_an_entry_that_accepts_nothing_clear_is_refused_with_its_line_also_by_the_schema(
    tmp_path: Path, entry: str, why: str
) -> None:
    path = accepting(tmp_path, entry)
    with pytest.raises(ConfigError, match=r"vllm-ci\.yaml:5") as refused:
        load.load(path)
    assert why in f"{refused.value} {refused.value.why}"
    content = yaml.safe_load(path.read_text(encoding="utf-8").replace("2027-12-31", '"2027-12-31"'))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, json.loads(schema.text()))
