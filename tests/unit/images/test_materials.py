"""What an image is made of is written down when it is built, and stays what it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest

from imagery.world import SITE, World
from vllm_ci.domain.errors import BuildError
from vllm_ci.domain.image_spec import Base
from vllm_ci.images import materials
from vllm_ci.images.export import Output, folder
from vllm_ci.images.prune import prune
from vllm_ci.images.spec_file import host_platform

pytestmark = pytest.mark.slow


def test_a_build_writes_down_wheels_packages_files_and_locks(world: World) -> None:
    image = world.build()
    made = materials.read(world.store, image.ref.digest)
    assert {(each.project, each.sha256) for each in made.wheels} == {(each.project, each.sha256) for each in world.wheels}
    architecture = host_platform().partition("/")[2]
    assert {each.sha256 for each in made.debs} == {each.sha256 for each in world.debs if each.architecture == architecture}
    content = (world.repository / "serving/template.jinja").read_bytes()
    assert made.files["/opt/serving/template.jinja"] == hashlib.sha256(content).hexdigest()
    assert not [path for path in made.files if path.startswith(f"/{SITE}")]
    lock = world.root / "images/small.lock"
    assert made.locks["small.lock"] == hashlib.sha256(lock.read_bytes()).hexdigest()
    assert made.parameters["platforms"] == [host_platform()]


def test_a_changed_lock_is_another_image_and_leaves_the_record_of_the_first_alone(world: World) -> None:
    first = world.build()
    before = materials.read(world.store, first.ref.digest)
    world.wheel("helper", "2.0", {"helper/__init__.py": b"VALUE = 2\n"})
    second = world.build()
    versions = {each.project: each.version for each in materials.read(world.store, second.ref.digest).wheels}
    assert versions["helper"] == "2.0"
    assert materials.read(world.store, first.ref.digest) == before


def test_an_unchanged_build_gives_an_image_of_an_earlier_version_its_record(world: World) -> None:
    first = world.build()
    [record] = (world.store.root / "materials").iterdir()
    content = record.read_bytes()
    record.unlink()
    with pytest.raises(BuildError, match="no record of what") as caught:
        materials.read(world.store, first.ref.digest)
    assert "vllm-ci build" in caught.value.remedy
    assert world.build().ref == first.ref
    assert record.read_bytes() == content


def test_a_record_about_another_image_is_refused(world: World) -> None:
    image = world.build()
    [record] = (world.store.root / "materials").iterdir()
    record.write_text(json.dumps({**json.loads(record.read_bytes()), "image": "sha256:" + "0" * 64}))
    with pytest.raises(BuildError, match="no record of what"):
        materials.read(world.store, image.ref.digest)


def test_both_platforms_are_in_one_record(world: World) -> None:
    image = world.build(targets=("linux/amd64", "linux/arm64"))
    made = materials.read(world.store, image.ref.digest)
    assert {each.architecture for each in made.debs} == {"amd64", "arm64"}
    assert len(made.wheels) == len(world.wheels)


def test_an_image_on_another_image_holds_none_of_our_debian_packages(world: World) -> None:
    below = world.root / "below"
    base = world.build()
    folder(world.store, base.ref.digest, below, ())
    name = f"oci:{below}@{base.ref.digest}"
    made = materials.read(world.store, world.build(base=Base(suite="bookworm", packages=("small",), image=name)).ref.digest)
    assert (made.debs, made.suite, made.base) == ((), "", name)
    assert made.wheels


def test_the_record_goes_with_its_image(world: World) -> None:
    image = world.build()
    assert Output().export(image, store=world.store) == image
    prune(world.store, older_than_days=1)
    assert materials.read(world.store, image.ref.digest)
    world.store.keep_only([])
    prune(world.store, older_than_days=0)
    assert list((world.store.root / "materials").iterdir()) == []


def test_what_only_the_commit_deletes_is_no_file(world: World) -> None:
    made = materials.BuiltFrom().with_platform(world.store, (), (), ())
    world.store.keep("files", "1" * 64, {"commit": {"kept": "a" * 64, "deleted": ""}, "debian": {"other": "b" * 64}})
    assert dict(made.with_platform(world.store, (), (), ["sha256:" + "1" * 64]).files) == {"/kept": "a" * 64}
    assert dataclasses.replace(made) == made
