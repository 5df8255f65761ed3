"""Models in the repository of the images: versions, what they cost, evidence, hostile manifests, crashes, two at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from registries.docker import DockerRegistry
from registries.evidence import NOW
from registries.models import add, blob, checkpoint, gguf, noise, safetensors, setup_in, unsigned
from vllm_ci.domain.errors import FailedError, UsageError
from vllm_ci.domain.events import Event
from vllm_ci.evidence import keys
from vllm_ci.evidence.keys import PublicKey
from vllm_ci.models import adding, artifact, files, history, naming, pulling, reading
from vllm_ci.models.artifact import ARTIFACT_TYPE, CONFIG_TYPE
from vllm_ci.models.evidence import Origin
from vllm_ci.models.refusals import TamperedModelError, UnsafeModelError
from vllm_ci.models.setup import ModelSetup
from vllm_ci.registry.access import Access
from vllm_ci.registry.errors import NotFoundError
from vllm_ci.registry.manifest import Manifest

CHAT = naming.parse("chat")


def test_the_artifact_is_a_modelpack(setup: ModelSetup, tmp_path: Path) -> None:
    done = add(setup, checkpoint(tmp_path / "c"), licence="Apache-2.0")
    manifest = done.model.manifest.json
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    assert {each["mediaType"].removeprefix("application/vnd.cncf.model.") for each in manifest["layers"]} == {
        "weight.v1.raw",
        "weight.config.v1.raw",
        "doc.v1.raw",
    }
    assert all(each["annotations"]["org.cncf.model.filepath"] for each in manifest["layers"])
    assert done.model.config == {
        "descriptor": {"name": "chat", "family": "llama", "licenses": ["Apache-2.0"]},
        "config": {"architecture": "transformer", "format": "safetensors", "paramSize": "45.1K", "precision": "u8"},
        "modelfs": {"type": "layers", "diffIds": [each["digest"] for each in manifest["layers"]]},
    }


@pytest.mark.slow
def test_a_fine_tune_costs_what_changed(setup: ModelSetup, tmp_path: Path) -> None:
    first = add(setup, checkpoint(tmp_path / "one", 1))
    second = add(setup, checkpoint(tmp_path / "two", 2))
    assert [first.record.version, second.record.version] == [1, 2]
    assert first.pushed_bytes > 45_000
    assert 4_000 < second.pushed_bytes < 8_000
    assert second.present_bytes > 40_000
    other = add(setup, checkpoint(tmp_path / "two", 2), name="other")
    assert other.record.version == 1
    assert other.pushed_bytes < 3_000, "models share their files"


@pytest.mark.slow
def test_adding_the_same_again_changes_nothing(setup: ModelSetup, tmp_path: Path) -> None:
    first = add(setup, checkpoint(tmp_path / "c"))
    again = add(setup, checkpoint(tmp_path / "c"))
    assert first.changed
    assert not again.changed
    assert (again.record, again.pushed_bytes, again.signed) == (first.record, 0, ())
    assert len(setup.ledger.read()) == 1


def test_a_gguf_file_is_added_with_its_facts(setup: ModelSetup, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf())
    done = adding.add(setup, "chat", files.check_gguf(tmp_path / "m.gguf"), Origin(source="file:m.gguf"), now=NOW)
    assert done.model.facts["format"] == "gguf"
    assert done.model.gguf == "m.gguf"


@pytest.mark.slow
def test_a_tampered_file_is_refused_by_name(setup: ModelSetup, tmp_path: Path) -> None:
    done = add(setup, checkpoint(tmp_path / "c"))
    layer = next(each for each in done.model.layers if each.path == "model-00002-of-00002.safetensors")
    place = blob(setup, layer.digest)
    content = bytearray(place.read_bytes())
    content[-1] ^= 1
    place.write_bytes(content)
    with pytest.raises(TamperedModelError, match=r"model-00002-of-00002\.safetensors"):
        pulling.pull(setup, CHAT, now=NOW)
    assert not list((tmp_path / "home/models/trees").glob("[0-9a-f]*")), "nothing is left that could be served"
    problems = reading.look(setup, CHAT, files=True, now=NOW).problems
    assert len(problems) == 1
    with pytest.raises(TamperedModelError, match=r"model-00002-of-00002\.safetensors"):
        reading.require_unaltered(problems, "chat@v1")
    place.unlink()
    with pytest.raises(TamperedModelError, match=r"model-00002-of-00002\.safetensors is missing"):
        pulling.pull(setup, CHAT, now=NOW)


@pytest.mark.parametrize("part", ["manifest", "config"])
def test_a_tampered_manifest_or_configuration_is_refused(part: str, setup: ModelSetup, tmp_path: Path) -> None:
    done = add(setup, checkpoint(tmp_path / "c"))
    place = blob(setup, done.model.digest if part == "manifest" else done.model.manifest.json["config"]["digest"])
    place.write_bytes(place.read_bytes().replace(b"chat", b"evil").replace(b"weight", b"wEight"))
    for check in (pulling.pull, partial(reading.look, files=True)):
        with pytest.raises(TamperedModelError, match="manifest or configuration"):
            check(setup, CHAT, now=NOW)


@pytest.mark.parametrize("part", ["manifest", "config"])
def test_a_version_that_is_missing_is_a_finding_when_its_files_are_checked(
    part: str, setup: ModelSetup, tmp_path: Path
) -> None:
    done = add(setup, checkpoint(tmp_path / "c"))
    blob(setup, done.model.digest if part == "manifest" else done.model.manifest.json["config"]["digest"]).unlink()
    with pytest.raises(TamperedModelError, match="chat@v1 is missing in"):
        reading.look(setup, CHAT, files=True, now=NOW)
    with pytest.raises(NotFoundError):
        reading.look(setup, CHAT, now=NOW)


def test_a_model_that_nobody_trusted_signed_is_not_pulled(setup: ModelSetup, tmp_path: Path) -> None:
    add(setup, checkpoint(tmp_path / "c"))
    with pytest.raises(FailedError, match="no valid signature"):
        pulling.pull(unsigned(setup), CHAT, now=NOW)


@pytest.mark.slow
def test_a_signature_of_another_model_does_not_count(setup: ModelSetup, tmp_path: Path) -> None:
    """The bundle of one model, attached to another: replayed by someone who may push and has no key."""
    from vllm_ci.evidence.attachment import attach
    from vllm_ci.evidence.bundle import Bundle

    add(setup, checkpoint(tmp_path / "one", 1))
    keys.generate(tmp_path / "other")
    stranger = replace(setup, key=lambda: keys.load(str(tmp_path / "other/release.key"), environment={}))
    second = add(stranger, checkpoint(tmp_path / "two", 2))
    signature = pulling.pull(setup, naming.parse("chat@v1"), now=NOW).signature
    with setup.open() as repository:
        attach(repository, second.model.digest, Bundle.parse(signature))
    with pytest.raises(FailedError, match="no valid signature") as caught:
        pulling.pull(setup, naming.parse("chat@v2"), now=NOW)
    assert "another image" in str(caught.value)


@pytest.mark.slow
def test_the_signature_is_verified_by_openssfs_own_tool(setup: ModelSetup, tmp_path: Path) -> None:
    add(setup, checkpoint(tmp_path / "c"))
    pulled = pulling.pull(setup, CHAT, now=NOW)
    pulling.copy_to(pulled, tmp_path / "out")
    (tmp_path / "model.sig").write_bytes(pulled.signature)
    tool = [sys.executable, "-m", "model_signing", "verify", "key", str(tmp_path / "out")]
    tool += ["--signature", str(tmp_path / "model.sig"), "--public_key", str(tmp_path / "project/keys/release.pub")]
    good = subprocess.run(tool, capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stdout + good.stderr
    (tmp_path / "out/config.json").write_text("{}")
    bad = subprocess.run(tool, capture_output=True, text=True, check=False)
    assert bad.returncode != 0
    assert "config.json" in bad.stdout + bad.stderr


def _hostile(change: Callable[[dict[str, Any]], None]) -> Manifest:
    digest = "sha256:" + "a" * 64
    layer = {
        "mediaType": "application/vnd.cncf.model.weight.v1.raw",
        "digest": digest,
        "size": 1,
        "annotations": {"org.cncf.model.filepath": "model.safetensors"},
    }
    value: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": ARTIFACT_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": digest, "size": 2},
        "layers": [layer, json.loads(json.dumps(layer).replace("model.safetensors", "other.safetensors"))],
    }
    change(value)
    return Manifest.parse(json.dumps(value).encode())


def _path(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda value: value["layers"][0]["annotations"].update({"org.cncf.model.filepath": name})


@pytest.mark.parametrize(
    "change",
    [
        _path("../model.safetensors"),
        _path("/etc/model.safetensors"),
        _path("a/../../model.safetensors"),
        _path("a\\..\\model.safetensors"),
        _path("./model.safetensors"),
        _path("a\nb.safetensors"),
        _path("Other.safetensors"),
        _path("other.safetensors/x.safetensors"),
        _path("model.bin"),
        lambda value: value["layers"][0].update(mediaType="application/vnd.cncf.model.weight.v1.tar"),
        lambda value: value["layers"][0].pop("annotations"),
        lambda value: value.update(artifactType="application/vnd.oci.image.config.v1+json"),
    ],
)
def test_a_manifest_that_would_write_elsewhere_or_is_no_model_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    with pytest.raises(UnsafeModelError):
        artifact.parse(_hostile(change), b'{"config":{},"descriptor":{}}')


def test_a_configuration_that_is_no_object_is_refused() -> None:
    manifest = _hostile(lambda _: None)
    assert artifact.parse(manifest, b'{"config":{},"descriptor":{}}').layers
    for content in (b"", b"[]", b"{}", b'{"config":1,"descriptor":{}}', b"[" * 100_000):
        with pytest.raises(UnsafeModelError):
            artifact.parse(manifest, content)


@pytest.mark.slow
def test_killed_at_every_step_it_is_a_whole_version_or_none_and_runs_again(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    seen = []
    for kill_at in range(20):
        world = tmp_path / f"world-{kill_at}"
        setup = setup_in(world)
        child = os.fork()
        if child == 0:
            _die_at(setup, folder, kill_at)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        records = setup.ledger.read()
        seen.append(len(records))
        if records:
            assert reading.look(setup, CHAT, files=True, now=NOW).problems == ()
        again = add(setup, folder)
        assert again.record.version == 1
        assert reading.look(setup, CHAT, files=True, now=NOW).problems == ()
        with setup.open() as repository:
            assert repository.resolve("model-chat-v1") == again.record.digest
    assert {0, 1} <= set(seen), "some kill came before the record, and some after it"


def _die_at(setup: ModelSetup, folder: Path, number: int) -> None:
    count = 0

    def emit(_: Event) -> None:
        nonlocal count
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    code = 1
    try:
        adding.add(setup, "chat", files.check(folder), Origin(source="file:c"), now=NOW, emit=emit)
        code = 0
    finally:
        os._exit(code)


@pytest.mark.slow
def test_two_who_add_at_once_get_two_versions(setup: ModelSetup, tmp_path: Path) -> None:
    folders = [checkpoint(tmp_path / f"c{seed}", seed) for seed in range(4)]
    found: list[int] = []
    threads = [threading.Thread(target=lambda folder=each: found.append(add(setup, folder).record.version)) for each in folders]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(found) == [1, 2, 3, 4]
    records = setup.ledger.read()
    with setup.open() as repository:
        for made in history.versions(records, "chat"):
            assert repository.resolve(made.tag) == made.digest


@pytest.mark.slow
def test_a_version_whose_tag_was_moved_is_not_overwritten(setup: ModelSetup, tmp_path: Path) -> None:
    add(setup, checkpoint(tmp_path / "one", 1))
    second = add(setup, checkpoint(tmp_path / "two", 2))
    with setup.open() as repository:
        repository.put_manifest(second.model.manifest, tag="model-chat-v1")
    with pytest.raises(FailedError, match="versions never change"):
        add(setup, checkpoint(tmp_path / "one", 1))


@pytest.mark.slow
def test_channels_do_not_see_records_of_models(tmp_path: Path) -> None:
    from registries.releases import world_in
    from vllm_ci.release.past import past
    from vllm_ci.release.publish import publish

    setup, world = setup_in(tmp_path / "p"), world_in(tmp_path / "p")
    add(setup, checkpoint(tmp_path / "c"))
    moved = publish(world.setup, world.candidate(1), "staging", now=NOW)
    assert moved.changed
    add(setup, checkpoint(tmp_path / "c2", 2))
    assert [each.number for each in past(world.setup).records] == [1]
    assert [each.number for each in setup.ledger.read()] == [1, 2]
    from vllm_ci.release.prune import prune

    assert prune(world.setup, dry_run=False).deleted == ()
    assert reading.look(setup, CHAT, files=True, now=NOW).problems == ()


@pytest.mark.slow
def test_names_are_looked_up(setup: ModelSetup, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no model chat"):
        reading.look(setup, CHAT, now=NOW)
    done = add(setup, checkpoint(tmp_path / "c"))
    for text in ("chat", "chat@v1", f"chat@{done.record.digest}"):
        assert reading.look(setup, naming.parse(text), now=NOW).record == done.record
    with pytest.raises(UsageError, match="the newest is v1"):
        reading.look(setup, naming.parse("chat@v2"), now=NOW)
    with pytest.raises(UsageError, match="has no alias champion"):
        reading.look(setup, naming.parse("chat@champion"), now=NOW)


@pytest.mark.parametrize(
    "text", ["", "Chat", "a/b", "a b", "-a", "a@", "a@V1", "a@v0", "a@v01", "a@sha256:12", "../a", "a" * 97]
)
def test_what_is_not_a_reference_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        naming.parse(text)


@pytest.mark.needs_registry
def test_a_registry_gets_only_what_it_lacks_and_gives_only_what_this_machine_lacks(
    registry: DockerRegistry, access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))
    setup = setup_in(tmp_path / "p", repository=f"{registry.host}/team/name", access=access)
    folder = checkpoint(tmp_path / "c", size=30_000)  # the first part is larger than four chunks of the fixture
    first = add(setup, folder)
    assert first.changed
    assert add(setup, folder).pushed_bytes == 0
    second = add(setup, checkpoint(tmp_path / "c2", 2, size=30_000))
    assert second.pushed_bytes < 35_000
    pulled = pulling.pull(setup, CHAT, now=NOW)
    assert pulled.pulled_bytes == second.model.size_bytes
    assert pulling.pull(setup, naming.parse("chat@v1"), now=NOW).pulled_bytes < 35_000, "versions share files here, too"
    assert (pulled.folder / "model-00002-of-00002.safetensors").read_bytes() == safetensors({"b": noise(2, 30_000)})


@pytest.mark.needs_registry
@pytest.mark.needs_tool
def test_skopeo_copies_a_model_with_its_digest(
    registry: DockerRegistry, access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not on PATH (apt-get install skopeo)")
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))
    setup = setup_in(tmp_path / "p", repository=f"{registry.host}/team/name", access=access)
    done = add(setup, checkpoint(tmp_path / "c"))
    source = f"docker://{registry.host}/team/name:model-chat-v1"
    target = tmp_path / "copy"
    command = ["skopeo", "copy", "-q", "--preserve-digests", "--src-tls-verify=false", source, f"oci:{target}:v1"]
    subprocess.run(command, check=True, capture_output=True)
    index = json.loads((target / "index.json").read_text())
    assert [each["digest"] for each in index["manifests"]] == [done.record.digest]
    for layer in done.model.layers:
        assert (target / "blobs/sha256" / layer.digest[7:]).stat().st_size == layer.size


@pytest.mark.slow
def test_a_file_in_the_cache_that_was_changed_is_fetched_again(setup: ModelSetup, tmp_path: Path) -> None:
    add(setup, checkpoint(tmp_path / "c"))
    pulled = pulling.pull(setup, CHAT, now=NOW)
    assert pulling.pull(setup, CHAT, now=NOW).pulled_bytes == 0
    place = pulled.folder / "model-00001-of-00002.safetensors"
    before = place.read_bytes()
    place.chmod(0o644)
    state = place.stat()
    place.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    os.utime(place, ns=(state.st_atime_ns, state.st_mtime_ns))  # as someone would who hides the change
    again = pulling.pull(setup, CHAT, now=NOW)
    assert again.pulled_bytes == len(before)
    assert (again.folder / place.name).read_bytes() == before


@pytest.mark.slow
def test_pulling_into_a_folder_leaves_what_is_there(setup: ModelSetup, tmp_path: Path) -> None:
    add(setup, checkpoint(tmp_path / "c"))
    pulled = pulling.pull(setup, CHAT, now=NOW)
    (tmp_path / "out").mkdir()
    pulling.copy_to(pulled, tmp_path / "out")
    assert (tmp_path / "out/config.json").is_file()
    with pytest.raises(UsageError, match="not an empty folder"):
        pulling.copy_to(pulled, tmp_path / "out")


@pytest.mark.slow
def test_a_second_signer_makes_a_version_of_untrusted_signatures_usable(setup: ModelSetup, tmp_path: Path) -> None:
    keys.generate(tmp_path / "other")
    other = replace(
        setup,
        signers={"other": PublicKey.read("other", tmp_path / "other/release.pub")},
        key=lambda: keys.load(str(tmp_path / "other/release.key"), environment={}),
    )
    add(other, checkpoint(tmp_path / "c"))
    assert add(setup, checkpoint(tmp_path / "c")).signed == ("provenance", "model signature")
    assert pulling.pull(setup, CHAT, now=NOW).signer == "ci"
