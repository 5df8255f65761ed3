"""The functions for models: the command line that they run is run here, in a project without servers."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dagger import dag

from registries import docker
from registries.git_server import PASSWORD, git_server
from registries.models import checkpoint
from unit.module.standin_tool import Ended, Folder, Machine, Secret, install
from vllm_ci.evidence import keys
from vllm_ci.module.models import Models

pytestmark = pytest.mark.anyio

Open = Callable[..., Any]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b.example", *words], cwd=folder, check=True)


@pytest.fixture(name="project")
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    (folder / "serving").mkdir(parents=True)
    config = "version: 1\nname: story\nmodel: {ref: chat@champion}\nmodels: {aliases: {champion: {licenses: [MIT]}}}\n"
    (folder / "serving" / "vllm-ci.yaml").write_text(config)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "x")
    for name, value in (("HOME", tmp_path), ("VLLM_CI_HOME", tmp_path / "home")):
        monkeypatch.setenv(name, str(value))
    return folder


@pytest.fixture(name="machine")
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return install(monkeypatch, tmp_path / "machine")


@pytest.fixture(name="opened")
def _opened(project: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Open:  # noqa: ARG001
    monkeypatch.setattr("vllm_ci.module.session.package", dag.directory)

    def make(**more: Any) -> Any:
        made: Any = Models
        return made(source=Folder(project), config="serving/vllm-ci.yaml", by="Anna <anna@example.com>", **more)

    return make


def held(place: Path, called: str = "") -> Any:
    return Folder(place, called)


@pytest.mark.slow
async def test_a_model_is_added_shown_compared_served_and_moved_as_on_the_command_line(
    opened: Open, machine: Machine, tmp_path: Path
) -> None:
    models, as_json = opened(), opened(as_json=True)
    one, two = held(checkpoint(tmp_path / "one", 1)), held(checkpoint(tmp_path / "two", 2), "/")
    first = json.loads(await as_json.add(name="chat", path=one, license="MIT", reason="- the first"))
    assert (first["version"], first["changed"]) == ("v1", True)
    assert "chat@v1" in await models.add(name="chat", path=one, license="MIT")
    second = json.loads(await as_json.add(name="chat", path=two, license="MIT", base="chat@v1"))
    assert second["version"] == "v2"
    shown = json.loads(await as_json.show(model="chat@v1"))
    assert shown["by"] == "Anna <anna@example.com>"
    assert "file:one" in json.dumps(await source_of(as_json, "chat@v1", tmp_path))
    assert "are shared" in await models.diff(model="chat@v1", other="chat@v2")
    assert "files unaltered" in await models.verify(model="chat@v2")
    would = json.loads(await as_json.alias(name="chat", assignment="champion=v1", dry_run=True))
    assert (would["changed"], would["dry_run"]) == (True, True)
    await models.alias(name="chat", assignment="champion=v1")
    await models.alias(name="chat", assignment="champion=v2", reason="better")
    back = json.loads(await as_json.rollback(name="chat", alias="champion", reason="worse"))
    assert (back["version"], back["previous"]) == ("v1", "v2")
    past = json.loads(await as_json.history(name="chat", alias="champion"))["records"]
    assert [each["action"] for each in past] == ["rollback", "alias", "alias"]
    assert [each["version"] for each in json.loads(await as_json.list(name="chat"))["models"]] == ["v2", "v1"]
    assert json.loads(await as_json.list())["models"]
    assert all(each == machine.wanted[0] for each in machine.wanted), "no server is started"


async def source_of(as_json: Any, model: str, folder: Path) -> Any:
    """The statements about a version, read from the repository's files; the name of a folder is part of them."""
    digest = json.loads(await as_json.show(model=model))["digest"]
    found = []
    for blob in (folder / "project" / "serving" / ".vllm-ci" / "registry" / "blobs" / "sha256").iterdir():
        try:
            bundle = json.loads(blob.read_bytes())
            found.append(json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"])))
        except (ValueError, LookupError, TypeError):
            continue
    return [each for each in found if digest.removeprefix("sha256:") in json.dumps(each)]


@pytest.mark.slow
async def test_the_files_of_a_version_are_a_directory_and_its_signature_is_a_file(
    opened: Open, machine: Machine, tmp_path: Path
) -> None:
    given = checkpoint(tmp_path / "one", 1)
    await opened().add(name="chat", path=held(given))
    files: Any = await opened().pull(model="chat@v1")
    assert {each.name for each in files.place.iterdir()} == {each.name for each in given.iterdir()}
    assert all((files.place / each.name).read_bytes() == each.read_bytes() for each in given.iterdir())
    signature: Any = await opened().signature(model="chat")
    assert "dsseEnvelope" in json.loads(signature.place.read_bytes())
    written = ("--to={out}/files", "--signature={out}/model.sig")
    assert machine.words == ["model", "pull", "chat", "--config={in.source}/serving/vllm-ci.yaml", *written]


async def test_a_gguf_file_keeps_its_name(opened: Open, machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no such format")
    with pytest.raises(Ended, match=r"model\.Q4_1\.gguf") as ended:
        await opened().add(name="chat", gguf=held(tmp_path / "x", "model.Q4_1.gguf"))
    assert ended.value.code == 1
    assert "--gguf={in.model}/model.Q4_1.gguf" in machine.words


@pytest.mark.slow
async def test_a_policy_that_refuses_ends_the_call_with_its_reasons_and_moves_nothing(opened: Open, tmp_path: Path) -> None:
    await opened().add(name="chat", path=held(checkpoint(tmp_path / "one", 1)), license="GPL-3.0-only")
    with pytest.raises(Ended, match="GPL") as ended:
        await opened().alias(name="chat", assignment="champion=v1")
    assert ended.value.code == 1
    assert json.loads(await opened(as_json=True).history(name="chat", alias="champion"))["records"] == []
    with pytest.raises(Ended, match="there is no alias best") as ended:
        await opened().alias(name="chat", assignment="best=v1")
    assert ended.value.code == 2


async def test_a_pickle_is_refused_and_named_by_its_place_in_the_given_folder(opened: Open, tmp_path: Path) -> None:
    given = checkpoint(tmp_path / "one", 1)
    (given / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    with pytest.raises(Ended, match=r"pytorch_model\.bin") as ended:
        await opened().add(name="chat", path=held(given))
    assert ended.value.code == 1
    assert "/vllm-ci/in" not in str(ended.value)


@pytest.mark.slow
async def test_an_altered_file_fails_the_verification(opened: Open, project: Path, tmp_path: Path) -> None:
    given = checkpoint(tmp_path / "one", 1)
    added = json.loads(await opened(as_json=True).add(name="chat", path=held(given)))
    digest = next(each["digest"] for each in added["files"] if each["path"] == "config.json")
    blob = project / "serving" / ".vllm-ci" / "registry" / "blobs" / "sha256" / digest.removeprefix("sha256:")
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes().replace(b"llama", b"lemma"))
    for call in (opened().verify(model="chat"), opened().pull(model="chat"), opened(as_json=True).verify(model="chat@v1")):
        with pytest.raises(Ended, match=r"config\.json") as ended:
            await call
        assert ended.value.code == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda models, _: models.add(name="Chat"), "not the name of a model"),
        (lambda models, _: models.add(name="chat"), "what to add is not clear"),
        (lambda models, given: models.add(name="chat", path=given, hub="o/n@main"), "what to add is not clear"),
        (lambda models, _: models.add(name="chat", hub="org"), "not a model of a hub"),
        (lambda models, _: models.show(model="chat@"), "not a version, an alias or a digest"),
        (lambda models, _: models.diff(model="chat", other="--all"), "not the name of a model"),
        (lambda models, _: models.pull(model="../chat"), "not the name of a model"),
        (lambda models, _: models.signature(model=""), "not the name of a model"),
        (lambda models, _: models.alias(name="chat", assignment="champion"), "not ALIAS=VERSION"),
        (lambda models, _: models.alias(name="chat", assignment="v1=v2"), "not a version, an alias or a digest"),
        (lambda models, _: models.rollback(name="chat", alias="champion", to="one"), "not a version: 'one'"),
        (lambda models, _: models.rollback(name="chat", alias="-x"), "not a version, an alias or a digest"),
        (lambda models, _: models.history(alias="champion"), "--alias needs --name"),
        (lambda models, _: models.list(name="a b"), "not the name of a model"),
    ],
)
async def test_what_is_not_valid_is_refused_before_a_container_starts(
    opened: Open, machine: Machine, tmp_path: Path, call: Callable[[Any, Any], Any], message: str
) -> None:
    with pytest.raises(Ended, match=message) as ended:
        await call(opened(), held(tmp_path))
    assert ended.value.code == 2
    assert not machine.programs


async def test_only_a_model_of_a_hub_needs_the_hubs_client(opened: Open, machine: Machine, tmp_path: Path) -> None:
    machine.checked_only = True
    await opened().add(name="chat", hub="org/name@main")
    await opened().add(name="chat", path=held(checkpoint(tmp_path / "one", 1)))
    await opened().verify(model="chat")
    assert [each.extras for each in machine.tools] == [True, False, False]


async def test_a_key_signs_what_is_added_and_nothing_else(
    opened: Open, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def accepted(*_: Any) -> None:
        pass

    monkeypatch.setattr("vllm_ci.module.verbs._check_key", accepted)
    machine.checked_only = True
    models = opened(key=Secret("KEY", "x"))
    await models.add(name="chat", path=held(checkpoint(tmp_path / "one", 1)))
    assert "--key=env:VLLM_CI_SIGNING_KEY" in machine.words
    for call in (models.alias(name="chat", assignment="champion=v1"), models.rollback(name="chat", alias="champion")):
        await call
        assert not [word for word in machine.words if word.startswith("--key")], "an alias is recorded, not signed"
    assert os.environ.get("VLLM_CI_SIGNING_KEY") is None


@pytest.mark.needs_registry
@pytest.mark.skipif(not docker.is_installed(), reason="docker-registry is not on PATH (apt-get install docker-registry)")
async def test_a_registry_and_a_ledger_that_want_passwords_get_those_of_the_object(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm_ci.module.session.package", dag.directory)
    machine = install(monkeypatch, tmp_path / "machine", servers=True)
    keys.generate(tmp_path / "keys", passphrase="sesame", name="ci")
    shutil.copy(tmp_path / "keys" / "ci.pub", project / "ci.pub")
    (tmp_path / "data").mkdir()
    with docker.docker_registry(tmp_path / "data", password=True) as registry, git_server(tmp_path / "git") as server:
        release = {
            "repository": f"{registry.host}/team/story",
            "ledger": {"repository": server.url},
            "signers": {"ci": "../ci.pub"},
        }
        config = project / "serving" / "vllm-ci.yaml"
        config.write_text(f"{config.read_text()}release: {json.dumps(release)}\n")
        given: dict[str, Any] = {
            "username": Secret("REGISTRY_USER", docker.USERNAME),
            "password": Secret("REGISTRY_PASSWORD", docker.PASSWORD),
            "ledger_password": Secret("LEDGER_TOKEN", PASSWORD),
            "key": Secret("KEY", (tmp_path / "keys" / "ci.key").read_text()),
            "passphrase": Secret("KEY_PASSPHRASE", "sesame"),
        }

        def models(**other: Any) -> Any:
            made: Any = Models
            return made(**{"source": Folder(project), "config": "serving/vllm-ci.yaml", **given, **other})

        one = Folder(checkpoint(tmp_path / "one", 1))
        assert "chat@v1" in await models().add(name="chat", path=one, license="MIT")
        await models().alias(name="chat", assignment="champion=v1")
        assert "signed by ci" in await models(key=None, passphrase=None).verify(model="chat@champion")
        files: Any = await models(key=None, passphrase=None).pull(model="chat@champion")
        assert (files.place / "config.json").read_bytes() == (one.place / "config.json").read_bytes()
        assert "champion" in await models(username=None, password=None).list(), "the ledger alone"
        for wrong, message in (("password", "does not accept the login"), ("ledger_password", "the ledger cannot be reached")):
            with pytest.raises(Ended, match=message) as ended:
                await models(**{wrong: Secret("X", "wrong")}).show(model="chat")
            assert ended.value.code in (2, 3)
        asked = len(machine.programs)
        keys.generate(tmp_path / "other", name="ci")
        with pytest.raises(Ended, match="belongs to no configured signer"):
            await models(key=Secret("KEY", (tmp_path / "other" / "ci.key").read_text())).add(name="chat", path=one)
        assert len(machine.programs) == asked, "refused before a container starts"
    assert not [word for program in machine.programs for word in program.argv if docker.PASSWORD in word or "PRIVATE" in word]
