from __future__ import annotations

import dataclasses
import json
import os
import stat
import time
from pathlib import Path

import pytest

from imagery.world import PYTHON, SITE, World, furnish, git
from vllm_ci.domain.errors import BuildError, ConfigError, UsageError
from vllm_ci.domain.events import Event, Finished, Started
from vllm_ci.domain.image_spec import Compression, Overlay, Tier
from vllm_ci.images.export import Output
from vllm_ci.images.integrity import manifest
from vllm_ci.images.store import Store, image_manifest
from vllm_ci.images.tree import materialise
from vllm_ci.system.vcs import discover

pytestmark = pytest.mark.slow


def built(image: object) -> list[str]:
    return [layer.tier for layer in image.layers if layer.built]  # type: ignore[attr-defined]


def test_an_image_holds_base_wheels_and_the_commits_files_each_where_it_belongs(world: World) -> None:
    files = world.files(world.build())
    assert files[f"{SITE}/helper/__init__.py"] == b"VALUE = 1\n"
    assert files["opt/serving/template.jinja"] == b"{{ messages }}"
    assert files["usr/lib/here.so"] == b"\x7fELF lib"
    assert files["etc/ssl/certs/ca-certificates.crt"] == b"A\nB\n"
    assert b"vllm:x:2000:0:" in files["etc/passwd"]


def test_layers_are_in_the_order_of_their_rate_of_change_and_machine_code_is_told_by_its_bytes(world: World) -> None:
    image = world.build()
    tiers = [layer.tier for layer in image.layers]
    assert tiers == ["base", "environment", "dependencies", "vllm-compiled", "vllm-python", "commit", "metadata"]
    compiled = world.contents(image, "vllm-compiled")
    assert {name for name, member in compiled.items() if member.isfile()} == {f"{SITE}/vllm/_C.abi3.so", f"{SITE}/vllm/tool"}


def test_all_python_files_come_with_byte_code_of_unchecked_hashes(world: World) -> None:
    files = world.files(world.build())
    for source in (f"{SITE}/vllm/engine.py", f"{SITE}/helper/__init__.py", "opt/serving/post.py"):
        folder, _, name = source.rpartition("/")
        code = files[f"{folder}/__pycache__/{name.removesuffix('.py')}.cpython-{PYTHON.replace('.', '')}.pyc"]
        assert int.from_bytes(code[4:8], "little") == 0b01


def test_tests_of_packages_have_no_byte_code(world: World) -> None:
    files = world.files(world.build())
    assert f"{SITE}/helper/tests/test_value.py" in files
    assert not [name for name in files if name.startswith(f"{SITE}/helper/tests/__pycache__")]


def test_the_same_commit_again_makes_nothing_and_gives_the_same_digest(world: World) -> None:
    first = world.build()
    second = world.build()
    assert second.ref == first.ref
    assert built(second) == []


def test_one_changed_line_makes_the_commits_layers_only_and_says_why(world: World) -> None:
    world.build()
    world.commit({"serving/post.py": b"def post(text):\n    return text.strip()\n"})
    image = world.build()
    assert built(image) == ["commit", "metadata"]
    assert any("rebuilt: files: opt/serving/post.py" in line for line in image.explain)


def test_digests_do_not_depend_on_folder_umask_time_zone_locale_threads_or_cache(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = world.build(threads=1)
    elsewhere = tmp_path / "somewhere" / "else-entirely-é"
    elsewhere.mkdir(parents=True)
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    for name, value in {"LC_ALL": "C", "LANG": "C", "PYTHONHASHSEED": "7", "PYTHONDONTWRITEBYTECODE": "1"}.items():
        monkeypatch.setenv(name, value)
    before = os.umask(0o077)
    try:
        other = furnish(elsewhere)
        monkeypatch.setenv("UV_FIND_LINKS", str(other.links))
        monkeypatch.setenv("VLLM_CI_DEBIAN_MIRROR", str(elsewhere / "mirror"))
        second = other.build(threads=4)
    finally:
        os.umask(before)
        monkeypatch.undo()
        time.tzset()
    assert second.ref.digest == first.ref.digest


def test_a_blob_that_was_lost_is_made_again_with_the_same_digest(world: World) -> None:
    first = world.build()
    lost = next(layer for layer in first.layers if layer.tier == "dependencies")
    world.store.blob(lost.digest).unlink()
    second = world.build()
    assert built(second) == ["dependencies"]
    assert second.ref == first.ref


def test_known_layers_need_neither_wheels_nor_packages(world: World) -> None:
    world.build()
    for folder in (world.store.wheels, world.store.debs, world.store.trees, world.links):
        folder.rename(folder.with_name(folder.name + "-gone"))
    world.commit({"serving/template.jinja": b"{{ other }}"})
    assert built(world.build()) == ["commit", "metadata"]


def test_zstd_layers_hold_the_same_tar(world: World) -> None:
    gzip = world.build()
    zstd = world.build(compression=Compression.ZSTD)
    assert [item["mediaType"] for item in image_manifest(zstd.ref.digest, store=world.store)["layers"]] == [
        "application/vnd.oci.image.layer.v1.tar+zstd"
    ] * len(zstd.layers)
    assert world.files(zstd) == world.files(gzip)


def test_config_names_commit_user_and_times_of_the_commit(world: World) -> None:
    commit = discover(world.repository)
    config = world.config(world.build())
    labels = config["config"]["Labels"]
    assert labels["org.opencontainers.image.revision"] == commit.sha
    assert labels["org.opencontainers.image.version"] == "1.0"
    assert config["created"] == labels["org.opencontainers.image.created"] == "2023-11-14T22:13:20Z"
    assert config["config"]["User"] == "2000:0"
    assert len(config["rootfs"]["diff_ids"]) == len(config["history"])


def test_modes_are_normalised_and_parents_present(world: World) -> None:
    path = world.repository / "serving" / "run.sh"
    path.write_bytes(b"#!/bin/sh\n")
    path.chmod(0o700)
    (world.repository / "serving" / "link").symlink_to("run.sh")
    world.commit({})
    members = world.contents(world.build(), "commit")
    assert members["opt/serving/run.sh"].mode == 0o755
    assert members["opt/serving/template.jinja"].mode == 0o644
    assert members["opt/serving/link"].linkname == "run.sh"
    assert members["opt"].isdir()
    assert {(member.uid, member.gid, member.mtime) for member in members.values()} == {(0, 0, 315532800)}


def test_folders_the_user_may_write_to_belong_to_its_group(world: World) -> None:
    image = world.build()
    assert world.contents(image, "environment")["home/vllm"].mode == 0o775
    assert world.contents(image, "base")["tmp"].mode == 0o1777


def test_what_git_does_not_track_stays_out_unless_the_tree_is_dirty(world: World) -> None:
    (world.repository / "serving" / "draft.txt").write_bytes(b"draft")
    dirty = discover(world.repository)
    clean = dataclasses.replace(dirty, dirty=False)
    assert dirty.dirty
    assert "opt/serving/draft.txt" not in world.files(world.build(commit=clean))
    image = world.build(commit=dirty)
    assert world.files(image)["opt/serving/draft.txt"] == b"draft"
    assert image.ref.tags == (f"{dirty.sha}-dirty-test",)


@pytest.mark.parametrize("name", ["serving/.env", "serving/id_rsa", "serving/tls.key"])
def test_files_named_like_secrets_are_refused(world: World, name: str) -> None:
    world.commit({name: b"x"})
    with pytest.raises(ConfigError, match="looks like a secret"):
        world.build()


def test_a_private_key_under_any_name_is_refused(world: World) -> None:
    world.commit({"serving/notes.txt": b"-----BEGIN RSA PRIVATE KEY-----\n" + b"A" * 64 + b"\n"})
    with pytest.raises(UsageError, match="private key or an access token"):
        world.build()


def test_an_overlay_that_the_commit_lacks_is_a_configuration_error(world: World) -> None:
    with pytest.raises(ConfigError, match=r"overlay nowhere is not in commit"):
        world.build(overlays=(Overlay(source="nowhere", target="/opt/x"),))


@pytest.mark.parametrize("same_tier", [True, False])
def test_two_wheels_that_fight_over_a_path_are_refused_unless_the_spec_names_the_winner(world: World, same_tier: bool) -> None:
    world.wheel("rival", "1", {"helper/__init__.py": b"VALUE = 2\n"})
    tiers = world.spec().tiers
    if not same_tier:
        first, *rest = tiers
        tiers = (
            Tier(name="rivals", wheels=("rival",)),
            dataclasses.replace(first, wheels=(*first.wheels, "!rival")),
            *rest,
        )
    with pytest.raises(BuildError, match=r"claimed by (helper|rival) and by (helper|rival)"):
        world.build(tiers=tiers)
    image = world.build(tiers=tiers, winners={f"/{SITE}/helper/__init__.py": "rival"})
    assert world.files(image)[f"{SITE}/helper/__init__.py"] == b"VALUE = 2\n"


def test_two_wheels_with_the_same_content_at_a_path_are_fine(world: World) -> None:
    world.wheel("twin", "1", {"helper/__init__.py": b"VALUE = 1\n"})
    assert world.files(world.build())[f"{SITE}/helper/__init__.py"] == b"VALUE = 1\n"


def test_a_wheel_that_no_tier_takes_is_a_configuration_error(world: World) -> None:
    with pytest.raises(ConfigError, match="helper matches no tier"):
        world.build(tiers=world.spec().tiers[1:])


def test_wheels_of_a_tier_are_dealt_into_layers_of_limited_size(world: World) -> None:
    world.wheel("other", "1", {"other/data.bin": os.urandom(5000)})
    tiers = (dataclasses.replace(world.spec().tiers[0], max_bytes=4000), *world.spec().tiers[1:])
    tiers_made = [layer.tier for layer in world.build(tiers=tiers).layers]
    assert tiers_made[2:4] == ["dependencies-1", "dependencies-2"]


def test_more_layers_than_engines_take_are_refused(world: World) -> None:
    for number in range(130):
        world.wheel(f"many{number}", "1", {f"many{number}.py": b""})
    tiers = (dataclasses.replace(world.spec().tiers[0], max_bytes=1), *world.spec().tiers[1:])
    with pytest.raises(ConfigError, match="container engines support 127"):
        world.build(tiers=tiers)


def test_several_platforms_give_an_index_with_a_manifest_each(world: World) -> None:
    image = world.build(targets=("linux/amd64", "linux/arm64"))
    index = json.loads(world.store.read(image.ref.digest))
    platforms = {item["platform"]["architecture"]: item["digest"] for item in index["manifests"]}
    assert set(platforms) == {"amd64", "arm64"}
    assert image.manifests == {f"linux/{name}": digest for name, digest in platforms.items()}
    configs = [
        json.loads(world.store.read(image_manifest(digest, store=world.store)["config"]["digest"]))
        for digest in platforms.values()
    ]
    assert {config["architecture"] for config in configs} == {"amd64", "arm64"}


def test_an_exported_layout_is_whole_and_names_the_tag(world: World, tmp_path: Path) -> None:
    image = Output.parse(f"oci:{tmp_path / 'out'}").export(world.build(), store=world.store)
    assert image.layout == tmp_path / "out"
    index = json.loads((tmp_path / "out" / "index.json").read_bytes())
    assert index["manifests"][0]["digest"] == image.ref.digest
    assert index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] == image.ref.tags[0]
    for layer in image.layers:
        assert (tmp_path / "out" / "blobs" / "sha256" / layer.digest.removeprefix("sha256:")).exists()


def test_a_tree_is_runnable_read_only_and_shared(world: World) -> None:
    image = world.build()
    tree = materialise(image.ref.digest, store=world.store)
    source = tree / SITE / "helper" / "__init__.py"
    assert source.read_bytes() == b"VALUE = 1\n"
    assert stat.S_IMODE(source.stat().st_mode) == 0o444
    assert (tree / "opt/vllm/bin/python").resolve() == tree / f"usr/bin/python{PYTHON}"
    assert materialise(image.ref.digest, store=world.store) == tree
    world.commit({"serving/template.jinja": b"new"})
    other = materialise(world.build().ref.digest, store=world.store)
    assert other != tree
    assert (other / SITE / "helper" / "__init__.py").samefile(source)


def test_the_manifest_of_files_says_what_each_file_must_be(world: World) -> None:
    import hashlib

    image = world.build()
    found = manifest(image.ref.digest, store=world.store)
    assert {"debian", "settings", "commit", "helper", "vllm-small"} == set(found)
    tree = materialise(image.ref.digest, store=world.store)
    for files in found.values():
        for path, digest in files.items():
            assert hashlib.sha256((tree / path.lstrip("/")).read_bytes()).hexdigest() == digest, path


def test_an_image_can_stand_on_another_by_digest(world: World, tmp_path: Path) -> None:
    under = Output.parse(f"oci:{tmp_path / 'under'}").export(world.build(), store=world.store)
    base = dataclasses.replace(
        world.spec().base, image=f"oci:{tmp_path / 'under'}@{under.ref.digest}", interpreter="/usr/local/bin/python3"
    )
    image = world.build(base=base, store=Store(tmp_path / "other-home"), env={"EXTRA": "1"})
    found = image_manifest(image.ref.digest, store=Store(tmp_path / "other-home"))
    below = [layer["digest"] for layer in image_manifest(under.ref.digest, store=world.store)["layers"]]
    assert [layer["digest"] for layer in found["layers"]][: len(below)] == below
    assert "base" not in [layer.tier for layer in image.layers]
    config = json.loads(Store(tmp_path / "other-home").read(found["config"]["digest"]))
    assert config["config"]["Env"] == ["EXTRA=1", "HOME=/home/vllm"]
    link = world.contents(image, "environment", store=Store(tmp_path / "other-home"))[f"opt/vllm/bin/python{PYTHON}"]
    assert link.linkname == "../../../usr/local/bin/python3"


def test_a_wheel_that_is_to_be_had_nowhere_is_an_error_with_a_remedy(world: World) -> None:
    for path in world.links.glob("helper*"):
        path.unlink()
    with pytest.raises(BuildError, match="is not available anywhere") as caught:
        world.build()
    assert "vllm-ci lock" in caught.value.remedy


def test_a_file_with_another_hash_than_the_locks_is_not_taken(world: World) -> None:
    path = next(world.links.glob("helper*"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(BuildError, match="is not available anywhere") as caught:
        world.build()
    assert "another file under this name" in caught.value.why


def test_a_submodule_in_an_overlay_is_refused(world: World) -> None:
    sha = discover(world.repository).sha
    git(world.repository, "update-index", "--add", "--cacheinfo", f"160000,{sha},serving/module")
    git(world.repository, "commit", "--quiet", "--message", "module")
    commit = dataclasses.replace(discover(world.repository), dirty=False)
    with pytest.raises(ConfigError, match="is a submodule"):
        world.build(commit=commit)


def test_a_build_tells_of_its_steps_and_an_unchanged_one_of_none(world: World) -> None:
    told: list[Event] = []
    world.build(emit=told.append)
    begun = [each.step for each in told if isinstance(each, Started)]
    assert {"fetch wheels", "fetch packages", "unpack", "layer base", "layer commit"} <= set(begun)
    assert sorted(begun) == sorted(each.step for each in told if isinstance(each, Finished))
    assert all("MB" in each.detail for each in told if isinstance(each, Finished) and each.step.startswith("layer "))
    told.clear()
    world.build(emit=told.append)
    assert told == []
