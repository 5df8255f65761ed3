"""A layer that is unpacked while it is written is the same as one that is unpacked later."""

from __future__ import annotations

import hashlib
import shutil
import stat
from pathlib import Path

import pytest

from imagery.world import World
from vllm_ci.images import layer, members
from vllm_ci.images.store import Store
from vllm_ci.images.tree import materialise

pytestmark = pytest.mark.slow


def contents(trees: Path) -> dict[str, tuple[int, str]]:
    """Mode and hash of every file of the unpacked layers."""
    return {
        str(path.relative_to(trees)): (stat.S_IMODE(path.stat().st_mode), hashlib.sha256(path.read_bytes()).hexdigest())
        for path in trees.glob("layer-*/*")
    }


def test_layers_unpacked_while_written_equal_those_unpacked_later(world: World) -> None:
    image = world.build(unpack=True)
    unpacked = contents(world.store.trees)
    assert unpacked
    assert not list(world.store.trees.glob(".part-*"))
    shutil.rmtree(world.store.trees)
    materialise(image.ref.digest, store=world.store)
    later = contents(world.store.trees)
    assert later == unpacked


def test_the_digest_is_the_same_with_and_without_unpacking(world: World, tmp_path: Path) -> None:
    unpacked = world.build(unpack=True)
    assert world.build(store=Store(tmp_path / "other-home")).ref.digest == unpacked.ref.digest


def test_a_tree_of_unpacked_layers_needs_no_blob(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    image = world.build(unpack=True)
    monkeypatch.setattr(members, "read", lambda *_, **__: pytest.fail("a layer was decompressed again"))
    assert (materialise(image.ref.digest, store=world.store) / "opt/serving/template.jinja").read_bytes() == b"{{ messages }}"


def test_a_build_that_fails_in_a_layer_leaves_no_unpacked_part(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bytes:
        raise OSError("the disk broke")

    monkeypatch.setattr(layer, "header", broken)
    with pytest.raises(OSError, match="the disk broke"):
        world.build(unpack=True)
    assert not list(world.store.trees.glob("layer-*"))
    assert not list(world.store.trees.glob(".part-*"))


def test_nothing_is_unpacked_unless_asked(world: World) -> None:
    world.build()
    assert not world.store.trees.exists() or not list(world.store.trees.glob("layer-*"))
