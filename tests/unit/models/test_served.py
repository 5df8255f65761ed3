"""`model: {ref: ...}`: resolved at the start, pulled, verified, served; report, evidence and ledger name it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import anyio
import pytest

from registries.evidence import NOW
from registries.models import checkpoint, gguf
from registries.releases import world_in
from standin.project import Project, project
from vllm_ci.config import releases
from vllm_ci.config.load import Loaded, Override, load
from vllm_ci.deploy.target import Revision
from vllm_ci.domain.errors import ConfigError, UsageError
from vllm_ci.domain.events import ignore
from vllm_ci.domain.project import ModelSpec
from vllm_ci.domain.report import ServedModel
from vllm_ci.evidence.predicates import test_result
from vllm_ci.evidence.statement import TEST_RESULT
from vllm_ci.registry.layout import Layout
from vllm_ci.release.gathering import findings_of
from vllm_ci.release.promote import promote
from vllm_ci.release.publish import publish
from vllm_ci.release.record import Release
from vllm_ci.report import document
from vllm_ci.targets import revision

pytestmark = pytest.mark.slow

STAGES = ("--stage", "integration")


@pytest.fixture(name="chat")
def _chat(tmp_path: Path) -> Project:
    """A project that serves `chat@champion`, with two versions of it."""
    made = project(tmp_path)
    config = made.folder / "vllm-ci.yaml"
    config.write_text(config.read_text() + "model: {ref: chat@champion}\n")
    (made.folder / ".gitignore").write_text(".vllm-ci\n")
    for seed in (1, 2):
        done = made.run("model", "add", "chat", str(checkpoint(tmp_path / f"c{seed}", seed)))
        assert done.code == 0, done.stderr
    assert made.run("model", "alias", "chat", "champion=v1").code == 0
    return made


def test_the_version_that_the_alias_points_to_is_served_and_named(chat: Project, tmp_path: Path) -> None:
    seen = tmp_path / "seen.json"
    first = chat.run("run", "--json", *STAGES, STANDIN_SEEN=str(seen))
    assert first.code == 0, first.stderr
    known = json.loads(chat.run("model", "show", "chat@v1", "--json").stdout)
    expected = {"ref": "chat@champion", "name": "chat", "version": "v1", "digest": known["digest"]}
    assert first.json["model"] == expected
    assert first.json["image"]["digest"].startswith("sha256:")
    assert first.report["model"] == expected
    assert f"chat@v1 {known['digest']}" in first.stderr
    assert known["digest"] in (first.folder / "report.html").read_text()
    served = json.loads(seen.read_text())
    part = "model-00002-of-00002.safetensors"
    assert (Path(served["model"]) / part).read_bytes() == (tmp_path / "c1" / part).read_bytes()
    assert served["argv"][served["argv"].index("--served-model-name") + 1] == "chat"

    assert chat.run("model", "alias", "chat", "champion=v2").code == 0
    second = chat.run("run", "--json", *STAGES, STANDIN_SEEN=str(seen))
    assert second.json["model"]["version"] == "v2"
    served = json.loads(seen.read_text())
    assert (Path(served["model"]) / part).read_bytes() == (tmp_path / "c2" / part).read_bytes()


def test_a_tampered_weight_file_is_not_served(chat: Project) -> None:
    known = json.loads(chat.run("model", "show", "chat@champion", "--json").stdout)
    layer = next(each for each in known["files"] if each["path"] == "model-00002-of-00002.safetensors")
    place = Layout(chat.folder / ".vllm-ci/registry").find(layer["digest"])
    assert place is not None
    place.write_bytes(b"x" * layer["size"])
    done = chat.run("run", "--json", *STAGES)
    assert done.code == 1
    assert "model-00002-of-00002.safetensors was altered" in done.stderr
    assert done.stdout == ""


def test_unknown_models_are_refused_before_anything_is_built(chat: Project) -> None:
    for name, said in (("chat@v9", "there is no chat@v9"), ("chat@challenger", "has no alias challenger")):
        done = chat.run("run", "--json", *STAGES, "--model", name)
        assert (done.code, said in done.stderr) == (2, True), done.stderr
        assert "build" not in done.stderr


def test_a_gguf_file_is_served_by_its_path(chat: Project, tmp_path: Path) -> None:
    (tmp_path / "small.gguf").write_bytes(gguf())
    assert chat.run("model", "add", "small", "--gguf", str(tmp_path / "small.gguf")).code == 0
    seen = tmp_path / "seen.json"
    done = chat.run("run", "--json", *STAGES, "--model", "small@v1", STANDIN_SEEN=str(seen))
    assert done.code == 0, done.stderr
    argv = json.loads(seen.read_text())["argv"]
    assert argv[argv.index("--model") + 1] == "{in.model}/small.gguf"


def test_the_configuration_takes_one_kind_of_model(tmp_path: Path) -> None:
    file = tmp_path / "vllm-ci.yaml"
    for text, said in (
        ("model: {ref: Chat@v1}", "not the name of a model"),
        ("model: {ref: chat@v1, path: x}", "set only one of"),
        ("models: {aliases: {v1: {}}}", "looks like a version"),
        ("models: {aliases: {a: {after: b}}}", "not another alias"),
    ):
        file.write_text(text + "\n")
        with pytest.raises(ConfigError, match=said):
            load(file)
    file.write_text("model: {ref: chat@v1}\n")
    assert load(file).config.model.domain() == ModelSpec(served_name="chat", ref="chat@v1")
    named = load(file, {"model.served_name": Override(value="other", origin="flag")})
    assert named.config.model.domain().served_name == "other"


async def _deployed(loaded: Loaded, target: str, model: str = "") -> Revision:
    settings = loaded.config.deploy.model_copy(update={"target": target})
    release = Release(commit="a" * 40, digest="sha256:" + "b" * 64, repository="r.example.com/n", tag="a" * 40, model=model)
    folder = loaded.folder / "kept"
    setup = releases.of(loaded).setup
    return await revision.revision(loaded, settings, setup, release, {}, kept=folder, prepare=False, emit=ignore)


def test_a_deployment_on_this_machine_serves_the_version_that_the_alias_points_to(chat: Project, tmp_path: Path) -> None:
    environment = chat.environment()["VLLM_CI_HOME"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CI_HOME", environment)
        made = anyio.run(_deployed, load(chat.folder / "vllm-ci.yaml"), "local")
    part = "model-00002-of-00002.safetensors"
    assert (Path(made.serving.checkpoint) / part).read_bytes() == (tmp_path / "c1" / part).read_bytes()
    assert made.serving.argv[made.serving.argv.index("--model") + 1] == "{model}"


def test_a_release_is_served_with_the_model_that_it_recorded_wherever_the_alias_points_to_by_now(
    chat: Project, tmp_path: Path
) -> None:
    first, second = (json.loads(chat.run("model", "show", f"chat@v{each}", "--json").stdout)["digest"] for each in (1, 2))
    assert chat.run("model", "alias", "chat", "champion=v2").code == 0
    config = chat.folder / "vllm-ci.yaml"
    part = "model-00002-of-00002.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CI_HOME", chat.environment()["VLLM_CI_HOME"])
        old = anyio.run(_deployed, load(config), "local", f"chat@{first}")
        new = anyio.run(_deployed, load(config), "local", f"chat@{second}")
        config.write_text(config.read_text().replace("{ref: chat@champion}", "{name: org/other, served_name: chat}"))
        still = anyio.run(_deployed, load(config), "local", f"chat@{first}")
        with pytest.raises(UsageError, match="chat"):
            anyio.run(_deployed, load(config), "local", "chat@sha256:" + "0" * 64)
    assert (Path(old.serving.checkpoint) / part).read_bytes() == (tmp_path / "c1" / part).read_bytes()
    assert (Path(new.serving.checkpoint) / part).read_bytes() == (tmp_path / "c2" / part).read_bytes()
    assert still == old
    assert old.name != new.name
    recorded = Release(commit="a" * 40, digest=old.image.digest, repository="r", tag="a" * 40, model=f"chat@{first}")
    assert (old.serves(recorded), new.serves(recorded)) == (True, False)


def test_a_model_from_a_wheel_is_made_on_this_machine_only(chat: Project) -> None:
    config = chat.folder / "vllm-ci.yaml"
    config.write_text(config.read_text().replace("{ref: chat@champion}", "{wheel: speaks.lock}"))
    (chat.folder / "speaks.lock").write_text("# x\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CI_HOME", chat.environment()["VLLM_CI_HOME"])
        with pytest.raises(UsageError, match="a generated model cannot be deployed to kubernetes"):
            anyio.run(_deployed, load(config), "kubernetes")
        made = anyio.run(_deployed, load(config), "local")
    assert made.serving.checkpoint == ""  # it is made when the deployment is prepared


def test_evidence_and_ledger_name_the_model_that_a_release_was_tested_with(tmp_path: Path) -> None:
    world = world_in(tmp_path / "p")
    candidate = world.candidate(1)
    served = ServedModel(ref="chat@champion", name="chat", version="v3", digest="sha256:" + "c" * 64)
    tested = tuple(
        dataclasses.replace(each, report=dataclasses.replace(each.report, model=served)) for each in candidate.tested
    )
    moved = publish(world.setup, dataclasses.replace(candidate, tested=tested), "staging", now=NOW)
    promoted = promote(world.setup, "staging", "production", now=NOW)
    assert moved.release.model == promoted.release.model == served.identity
    assert moved.to_json()["release"]["model"] == served.identity  # type: ignore[index]
    records = world.setup.ledger.read().records
    assert [each.release.model for each in records] == [served.identity, served.identity]
    with world.setup.open() as repository:
        found = findings_of(world.setup, repository, moved.release, now=NOW).of(TEST_RESULT)
    assert {each.statement.predicate["configuration"][0]["annotations"]["model"] for each in found} == {served.identity}
    assert all(test_result.read(each.statement) for each in found)
    report = tested[0].report
    assert document.from_json(document.to_json(report)) == report
