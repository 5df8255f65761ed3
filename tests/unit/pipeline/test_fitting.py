"""A server is fitted to its machine where the user says nothing: the parts together, and what `config` shows of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner

from unit.stages.memory import MemoryDirectory
from vllm_ci.cli import root
from vllm_ci.domain.errors import ErroredError
from vllm_ci.domain.events import Event, Finished
from vllm_ci.domain.program import Outcome, Program
from vllm_ci.domain.project import ModelSpec, Project, ServerSpec
from vllm_ci.pipeline import fitting

MACHINE = {"memory_bytes": 18 << 30, "cores": 4}
SMALL = {
    "num_hidden_layers": 16,
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
    "intermediate_size": 8192,
}


@dataclass
class Machine:
    """An engine that has one answer."""

    answer: bytes = json.dumps(MACHINE).encode()
    exit_code: int = 0
    asked: list[Program] = field(default_factory=list)

    def directory(self, path: Path) -> MemoryDirectory:
        assert (path / "machine.py").is_file()
        return MemoryDirectory()

    async def run(self, program: Program) -> Outcome:
        self.asked.append(program)
        return Outcome(
            exit_code=self.exit_code, seconds=0.1, output=MemoryDirectory({"machine.json": self.answer}), log="no /proc"
        )


def fitted(
    server: ServerSpec, files: Mapping[str, Any] | None, *, device: str = "cpu", env: tuple[str, ...] = (), engine: Any = None
) -> tuple[ServerSpec, list[Event]]:
    project = Project(name="p", config="c", model=ModelSpec(served_name="m", name="org/m"), server=server, stages=())
    model = None if files is None else MemoryDirectory({name: json.dumps(value).encode() for name, value in files.items()})
    events: list[Event] = []

    where: Any = engine or Machine()

    async def work() -> Project:
        return await fitting.fitted(
            where,
            project,
            model,
            image={"device": device},
            config={"config": {"Env": list(env)}},
            emit=events.append,
        )

    return anyio.run(work).server, events


def test_a_model_that_is_at_hand_gets_what_it_needs_and_the_run_says_what_that_is() -> None:
    server, events = fitted(ServerSpec(args=("--seed=1",), env={"A": "b"}), {"config.json": SMALL})
    assert server.env == {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "3",
        "VLLM_CPU_KVCACHE_SPACE": "5",
        "A": "b",
    }
    assert server.args == ("--max-model-len=8192", "--max-num-seqs=16", "--seed=1"), "the user's own come last: they win"
    (event,) = events
    assert isinstance(event, Finished)
    assert event.step == "settings"
    assert "VLLM_CPU_KVCACHE_SPACE=5" in event.detail


@pytest.mark.parametrize("files", [None, {}, {"config.json": []}, {"model.gguf": 1}])
def test_a_model_that_nothing_is_known_of_gets_a_cache_and_what_fits_into_it(files: dict[str, Any] | None) -> None:
    server, _ = fitted(ServerSpec(), files)
    assert server.env["VLLM_CPU_KVCACHE_SPACE"] == "4"
    assert server.args == ("--max-model-len=-1", "--max-num-seqs=16")


def test_the_shorter_limit_of_the_tokenizer_counts() -> None:
    server, _ = fitted(ServerSpec(), {"config.json": SMALL, "tokenizer_config.json": {"model_max_length": 4000}})
    assert "--max-model-len=4000" in server.args


def test_what_the_image_sets_counts_as_said() -> None:
    server, _ = fitted(ServerSpec(), {"config.json": SMALL}, env=("VLLM_CPU_KVCACHE_SPACE=2", "PATH=/bin"))
    assert "VLLM_CPU_KVCACHE_SPACE" not in server.env


@pytest.mark.parametrize(("device", "gpus"), [("", "none"), ("", "all"), ("cpu", "all")])
def test_nothing_is_computed_for_an_image_that_uses_gpus(device: str, gpus: str) -> None:
    engine = Machine()
    given = ServerSpec(args=("--seed=1",), gpus=gpus)
    server, events = fitted(given, {"config.json": SMALL}, device=device, engine=engine)
    assert server == given
    assert not events
    assert not engine.asked


def test_a_machine_that_cannot_be_measured_is_an_error_not_a_guess() -> None:
    with pytest.raises(ErroredError, match="free memory"):
        fitted(ServerSpec(), None, engine=replace(Machine(), exit_code=1))


def shown(folder: Path, text: str, *arguments: str) -> dict[str, dict[str, Any]]:
    (folder / "vllm-ci.yaml").write_text(text)
    result = CliRunner().invoke(root, ["config", "--json", "--config", str(folder / "vllm-ci.yaml"), *arguments])
    assert result.exit_code == 0, result.output
    found: dict[str, dict[str, Any]] = json.loads(result.stdout)
    return found


def computed(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {key: row["value"] for key, row in rows.items() if row["origin"] == "computed"}


def test_config_shows_what_is_computed_with_its_origin_and_reason(tmp_path: Path) -> None:
    rows = shown(tmp_path, "version: 1\n")
    found = computed(rows)
    assert found["server.env.VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert found["server.env.VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert found["server.args.--max-num-seqs"] == "16"
    assert "GiB" in rows["server.env.VLLM_CPU_KVCACHE_SPACE"]["reason"]
    text = CliRunner().invoke(root, ["config", "--config", str(tmp_path / "vllm-ci.yaml")]).output
    assert "computed: " in text


def test_config_reads_the_checkpoint_of_a_path(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(SMALL))
    found = computed(shown(tmp_path, "model: {path: model}\n"))
    assert found["server.args.--max-model-len"] in ("8192", *map(str, range(128, 8192, 128)))


def test_config_says_that_a_name_on_a_hub_is_not_known_yet(tmp_path: Path) -> None:
    rows = shown(tmp_path, "version: 1\n", "--model", "org/model")
    assert rows["server.args.--max-model-len"]["value"] == "-1"
    assert "only after its download" in rows["server.env.VLLM_CPU_KVCACHE_SPACE"]["reason"]


def test_config_computes_nothing_that_the_file_says(tmp_path: Path) -> None:
    env = "VLLM_CPU_KVCACHE_SPACE: '2', OMP_NUM_THREADS: '1', VLLM_CPU_OMP_THREADS_BIND: '0'"
    rows = shown(tmp_path, f"server:\n  args: [--max-num-seqs=4]\n  env: {{{env}}}\nstages: {{security: {{accept: []}}}}\n")
    assert not computed(rows)


def test_config_computes_nothing_for_cuda_images(tmp_path: Path) -> None:
    found = computed(shown(tmp_path, "image: {spec: cuda}\nserver: {gpus: all}\n"))
    assert not [key for key in found if key.startswith("server")]


def test_findings_of_vllm_itself_do_not_fail_a_project_that_says_nothing(tmp_path: Path) -> None:
    found = computed(shown(tmp_path, "version: 1\n"))["stages.security.accept"]
    assert {"no-authentication", "special-token-injection"} == {entry["id"] for entry in found if "id" in entry}
    assert [entry["up_to"] for entry in found if entry.get("known") == "vllm"] == ["medium"]
    assert all(entry["reason"] and entry["until"] for entry in found)


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("server: {generate_api_key: true}\n", "no-authentication"),
        ("server: {api_key_env: KEY}\n", "no-authentication"),
        ("model: {name: org/m}\n", "special-token-injection"),
    ],
)
def test_what_does_not_hold_for_a_project_is_not_accepted_for_it(tmp_path: Path, text: str, gone: str) -> None:
    found = computed(shown(tmp_path, text))["stages.security.accept"]
    assert gone not in {entry.get("id") for entry in found}


def test_no_finding_of_severity_high_is_accepted_by_default(tmp_path: Path) -> None:
    found = computed(shown(tmp_path, "version: 1\n"))["stages.security.accept"]
    severe = ("open-route", "development-route", "secret")
    assert not [
        entry for entry in found if entry.get("id", "").startswith(severe) or entry.get("up_to") in ("high", "critical")
    ]
