from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
from click.testing import CliRunner

from imagery.world import World
from vllm_ci.cli.cache import cache
from vllm_ci.engines.host import HostEngine
from vllm_ci.images import prune, tree
from vllm_ci.images.compare import difference, explained, find, layers
from vllm_ci.images.store import Store, image_config
from vllm_ci.images.tree import materialise
from vllm_ci.system.filelock import LockedError
from vllm_ci.system.home import LAUNCHERS

pytestmark = pytest.mark.slow


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


def test_kernels_that_torch_compiled_long_ago_go_unless_a_server_runs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.build()
    old, new = (world.store.root / "torchinductor" / name / "kernel.so" for name in ("ab", "cd"))
    for path, days in ((old, 40), (new, 1)):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
        os.utime(path, (time.time() - days * 86400,) * 2)
    assert {kind.name: kind.count for kind in prune.show(world.store)}["torchinductor"] == 2
    with monkeypatch.context() as patched:
        patched.setattr(prune, "_in_use", lambda _: {"tree": ["a server"]})
        prune.prune(world.store, older_than_days=30)
    assert old.exists()
    prune.prune(world.store, older_than_days=30)
    assert not old.parent.exists()
    assert new.exists()


def test_launchers_go_with_the_tree_that_they_run_from(world: World) -> None:
    image = world.build()
    name = materialise(image.ref.digest, store=world.store).name
    kept, gone = (world.store.root / LAUNCHERS / f"{each}-0123456789ab" for each in (name, "image-that-was-deleted-2"))
    for each in (kept, gone):
        (each / "bin").mkdir(parents=True)
    prune.prune(world.store, older_than_days=30)
    assert kept.exists()
    assert not gone.exists()
    old = time.time() - 40 * 86400
    os.utime(world.store.trees / name, (old, old))
    assert kept in prune.prune(world.store, older_than_days=30).paths
    assert not kept.exists()


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


@contextmanager
def another_process(code: str, store: Store) -> Iterator[subprocess.Popen[str]]:
    """A process that runs ``code`` until the context ends; entered when it has printed a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "VLLM_CI_HOME": str(store.root)}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()


BUILDING = """
import time
from vllm_ci.images.store import Store
with Store().in_use():
    print("ready", flush=True)
    time.sleep(300)
"""
SERVING = """
import sys, time
from vllm_ci.images import tree
with tree.in_use({digest!r}):
    print("ready", flush=True)
    time.sleep(300)
"""


def test_prune_says_which_process_it_waits_for_long_before_it_gives_up(world: World) -> None:
    world.build()
    told: list[tuple[float, list[str]]] = []
    begun = time.monotonic()
    with another_process(BUILDING, world.store) as builder:
        with pytest.raises(LockedError) as caught:
            prune.prune(
                world.store,
                older_than_days=0,
                wait_s=4,
                waiting=lambda users: told.append((time.monotonic() - begun, users)),
            )
        assert time.monotonic() - begun > 3.9
        [(after_s, users)] = told
        assert users[0].startswith(f"{builder.pid} (")
        assert str(builder.pid) in str(caught.value)
        assert "--wait SECONDS" in str(caught.value)
    assert after_s < 3.9
    assert prune.prune(world.store, older_than_days=0, wait_s=0).images, "nobody holds it now"


def test_the_command_names_what_it_waits_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CI_HOME", str(world.store.root))
    with another_process(BUILDING, world.store) as builder:
        ended = CliRunner().invoke(cache, ["prune", "--wait", "0.8"])
    assert f"waiting up to 0.8 s for {builder.pid} (" in ended.stderr
    assert isinstance(ended.exception, LockedError)


def test_what_a_server_uses_stays_however_old_and_is_listed(world: World) -> None:
    image = world.build()
    with another_process(SERVING.format(digest=image.ref.digest), world.store) as server:
        found = prune.prune(world.store, older_than_days=0, max_bytes=1)
        assert found.images == ()
        [(name, users)] = found.in_use.items()
        assert users[0].startswith(f"{server.pid} (")
        assert (world.store.trees / name).is_dir()
        assert image_config(image.ref.digest, store=world.store)["config"], "its later programs read it"
    found = prune.prune(world.store, older_than_days=0)
    assert found.images == (f"small:{image.ref.tags[0]}",)
    assert not found.in_use
    assert not (world.store.trees / name).exists()


def test_a_tree_is_not_pruned_while_it_is_made(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its layers are linked one after another: without a lock, one that is unpacked goes before it is linked."""
    image = world.build()
    unpacked, half_way, go_on = tree.write, threading.Event(), threading.Event()

    def slow(*arguments: Any, **options: Any) -> None:
        half_way.set()
        assert go_on.wait(30)
        unpacked(*arguments, **options)

    monkeypatch.setattr(tree, "write", slow)
    with ThreadPoolExecutor(2) as pool:
        making = pool.submit(materialise, image.ref.digest, store=world.store)
        assert half_way.wait(30)
        pruning = pool.submit(prune.prune, world.store, older_than_days=0)
        time.sleep(0.5)
        assert not pruning.done()
        assert list(world.store.trees.glob("layer-*")), "not deleted meanwhile"
        go_on.set()
        assert any(making.result(30).iterdir())
        assert pruning.result(30).paths


def test_a_program_of_the_host_engine_keeps_its_image(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CI_HOME", str(world.store.root))
    image = world.build()

    async def check() -> None:
        async with HostEngine() as engine:
            engine._image(image.ref.digest)
            found = prune.prune(world.store, older_than_days=0)
            assert (found.images, len(found.in_use)) == ((), 1)
        assert prune.prune(world.store, older_than_days=0).images

    anyio.run(check)
