from __future__ import annotations

import os
import time

from imagery.world import World
from vllm_ci.images import prune
from vllm_ci.images.compare import difference, explained, find, layers
from vllm_ci.images.tree import materialise


def test_what_images_need_stays_and_the_rest_goes(world: World) -> None:
    image = world.build()
    loose = world.store.add(b"belongs to nothing")
    (world.store.blobs / ".part-abc").write_bytes(b"half")
    found = prune.prune(world.store, older_than_days=1)
    assert not world.store.blob(loose).exists()
    assert not (world.store.blobs / ".part-abc").exists()
    assert found.images == ()
    again = world.build()
    assert again.ref == image.ref
    assert not any(layer.built for layer in again.layers)


def test_old_images_are_forgotten_with_all_that_was_theirs_alone(world: World) -> None:
    first = world.build()
    past = time.time() - 10 * 86400
    os.utime(world.store.blob(first.ref.digest), (past, past))
    world.commit({"serving/template.jinja": b"new"})
    second = world.build()
    found = prune.prune(world.store, older_than_days=5)
    assert found.images == (f"small:{first.ref.tags[0]}",)
    gone = next(layer.digest for layer in first.layers if layer.tier == "commit")
    assert not world.store.blob(gone).exists()
    assert materialise(second.ref.digest, store=world.store).is_dir()


def test_a_dry_run_deletes_nothing(world: World) -> None:
    world.build()
    before = sorted(path for path in world.store.root.rglob("*"))
    found = prune.prune(world.store, older_than_days=0, dry_run=True)
    assert found.paths
    assert sorted(path for path in world.store.root.rglob("*") if path.name != "prune") == [
        path for path in before if path.name != "prune"
    ]


def test_the_newest_images_that_fit_stay(world: World) -> None:
    world.build()
    world.wheel("helper", "0.2", {"helper/data.bin": os.urandom(300_000)})
    second = world.build()
    size = sum(layer.size_bytes for layer in second.layers) + 100_000
    os.utime(world.store.blob(second.ref.digest))
    found = prune.prune(world.store, older_than_days=5, max_bytes=size)
    assert len(world.store.index()) == 1
    assert found.freed_bytes > 0


def test_what_the_cache_holds_is_counted(world: World) -> None:
    world.build()
    kinds = {kind.name: kind for kind in prune.show(world.store)}
    assert kinds["images"].count == 1
    assert kinds["wheels"].count == 2
    assert kinds["images"].size_bytes > 0


def test_a_node_pulls_only_the_layers_it_lacks(world: World) -> None:
    first = world.build()
    world.commit({"serving/template.jinja": b"new"})
    second = world.build()
    found = difference(world.store, first.ref.digest, second.ref.digest)
    assert [layer.tier for layer in found.pulled] == ["commit", "metadata"]
    assert found.pulled_bytes < 10_000
    assert difference(world.store, first.ref.digest, first.ref.digest).pulled_bytes == 0


def test_an_image_is_found_by_the_beginning_of_its_commit_and_explained(world: World) -> None:
    image = world.build()
    assert find(world.store, image.ref.tags[0][:8]) == image.ref.digest
    assert find(world.store, f"small:{image.ref.tags[0]}") == image.ref.digest
    assert [layer.tier for layer in layers(world.store, image.ref.digest)] == [layer.tier for layer in image.layers]
    inputs = {item["tier"]: item["inputs"] for item in explained(world.store, image.ref.digest)}
    assert "helper" in inputs["dependencies"]["wheels"]
