"""Killed at any moment, out of disk, or two at once: the store stays good."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imagery.world import World
from vllm_ci.domain.errors import BuildError
from vllm_ci.images import layer, store
from vllm_ci.images.store import Store

pytestmark = pytest.mark.slow

CHILD = """
import sys
from pathlib import Path
from imagery.world import World
from imagery.fixtures import at_home
from vllm_ci.images import interpreter
from vllm_ci.images.tree import materialise
import pickle
world = pickle.loads(Path(sys.argv[1]).read_bytes())
interpreter.interpreter = lambda *_: ([sys.executable], {})
print("started", flush=True)
image = world.build()
materialise(image.ref.digest, store=world.store)
print(image.ref.digest, sum(layer.built for layer in image.layers), flush=True)
"""


def child(world: World) -> subprocess.Popen[str]:
    import pickle

    (world.root / "world.pickle").write_bytes(pickle.dumps(world))
    path = os.pathsep.join(part for part in sys.path if part)
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(world.root / "world.pickle")],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )


def whole(found: Store) -> None:
    """Every blob is what its name says, and every record's blob is there."""
    import hashlib
    import json

    for blob in found.blobs.iterdir():
        if not blob.name.startswith("."):
            assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    for record in (found.root / "layers").glob("*.json"):
        facts = json.loads(record.read_bytes())
        assert found.blob(facts["digest"]).stat().st_size == facts["size_bytes"]
    for item in found.index():
        assert found.blob(item["digest"]).exists()


@pytest.mark.slow
def test_a_builder_killed_at_any_moment_leaves_a_good_store(world: World) -> None:
    for number in range(12):
        world.wheel(f"part{number}", "1", {f"part{number}/{name}.py": b"X = 1\n" * 200 for name in range(6)})
    dice = random.Random(4)
    # How long a whole build takes here, so that kills are spread over it.
    started = time.monotonic()
    with child(world) as process:
        assert process.wait() == 0
        assert process.stdout is not None
        expected = process.stdout.read().split()[1]
    seconds = time.monotonic() - started
    for attempt in range(6):
        world.settings["env"] = {"ATTEMPT": str(attempt)}
        world.store.root.rename(world.root / f"old{attempt}")
        with child(world) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(dice.random() * seconds * 0.8)  # the moment is the point, no condition could be awaited
            process.send_signal(signal.SIGKILL)
        if world.store.root.exists():
            whole(world.store)
        world.settings.pop("env")
        assert world.build().ref.digest == expected
        whole(world.store)


def test_two_builders_at_once_do_the_work_once(world: World) -> None:
    processes = [child(world) for _ in range(3)]
    results = []
    for process in processes:
        output, _ = process.communicate()
        results.append(output.split()[1:])
    assert len({digest for digest, _ in results}) == 1
    assert sum(int(built) for _, built in results) == 7
    whole(world.store)


def test_a_full_disk_says_how_much_is_needed_and_leaves_the_store_good(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.build()
    world.wheel("helper", "0.2", {"helper/data.bin": os.urandom(5_000_000)})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(layer, "write", full)
        with pytest.raises(BuildError, match="is full") as caught:
            world.build()
    assert "is needed; no partial files were kept" in caught.value.why
    assert not list(world.store.blobs.glob(".part-*"))
    whole(world.store)
    world.build()


def test_downloads_that_cannot_fit_are_refused_before_they_start(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "free_bytes", lambda _: 10)
    with pytest.raises(BuildError, match="are free at"):
        world.build()


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk takes root to mount")
def test_a_really_full_disk(world: World, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "none", str(small)], check=False, capture_output=True
    ).returncode:
        pytest.skip("mount is not allowed here")
    try:
        world.wheel("helper", "0.2", {"helper/data.bin": random.Random(1).randbytes(900_000)})
        with pytest.raises(BuildError) as caught:
            world.build(store=Store(small / "home"))
        assert "free" in str(caught.value)
        assert not list(small.rglob(".part-*"))
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)
