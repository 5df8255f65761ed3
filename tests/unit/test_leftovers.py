"""Nothing is left behind, however a command ends: each verb is a process with an empty directory for temporary files."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imagery.fixtures import world
from imagery.world import World
from registries import project
from vllm_ci.domain.image_spec import Compile, VllmSource
from vllm_ci.system import scratch

__all__ = ["world"]

# The command line, with this very interpreter in place of the base's (which is a few bytes in the tests' world).
COMMAND = """
import sys
from vllm_ci.images import interpreter
from vllm_ci.cli import main
interpreter.interpreter = lambda *_: ([sys.executable], {})
main()
"""
COMPILE = """
import pickle, sys
from pathlib import Path
from vllm_ci.cli import signals
from vllm_ci.images import interpreter
interpreter.interpreter = lambda *_: ([sys.executable], {})
signals.catch()
world = pickle.loads(Path(sys.argv[1]).read_bytes())
try:
    world.build()
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture(autouse=True)
def _clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(part for part in sys.path if part))
    for name in ("CI", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL", "VLLM_CI_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def left(root: Path) -> list[str]:
    """What lies where temporary things are made."""
    places = (root / "temporary", root / "home" / "tmp", root / "home" / "work")
    found = [path for place in places if place.is_dir() for path in place.iterdir() if path.name != ".sweep"]
    return sorted(str(path.relative_to(root)) for path in [*found, *root.rglob(".part-*")])


def call(root: Path, folder: Path, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments], cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode in codes, done.stdout + done.stderr
    assert left(root) == [], arguments
    return done.stdout + done.stderr


SPEC = """
variant: test
repository: small
python: "{python}"
glibc: "2.36"
prefix: /opt/vllm
platforms: [linux/amd64, linux/arm64]
base: {{suite: bookworm, packages: [small]}}
requirements: [helper==0.1]
tiers: [{{name: all, wheels: ["*"]}}]
user: {{name: u, uid: 2000, gid: 0, home: /home/u}}
"""


@pytest.fixture
def checkout(world: World) -> Path:
    world.spec()
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    (world.root / "images" / "small.yaml").write_text(SPEC.format(python=python), encoding="utf-8")
    overlays = "overlays: [{from: serving, to: /opt/serving}]"
    world.commit({"vllm-ci.yaml": f"version: 1\nimage: {{spec: ../images/small.yaml, {overlays}}}\n".encode()})
    return world.repository


@pytest.mark.slow
def test_verbs_about_images_leave_nothing(checkout: Path, tmp_path: Path) -> None:
    call(tmp_path, checkout, "build")
    call(tmp_path, checkout, "build", "--check")
    call(tmp_path, checkout, "build", "--output", f"oci-archive:{tmp_path}/out/image.tar")
    call(tmp_path, checkout, "build", "no-such-commit", codes=(2,))
    call(tmp_path, checkout, "image", "show", "HEAD", codes=(0, 2))
    call(tmp_path, checkout, "cache", "show")
    call(tmp_path, checkout, "cache", "prune")
    call(tmp_path, checkout, "config")
    call(tmp_path, checkout, "doctor", "--offline", codes=(0, 3))
    call(tmp_path, checkout, "lock", codes=(0, 2, 3))
    call(tmp_path, checkout, "serve", codes=(2, 3))
    call(tmp_path, checkout, "run", codes=(2, 3))
    call(tmp_path, checkout, "test", "--url", "http://127.0.0.1:9", "--stage", "streaming", codes=(1, 3))
    (checkout / "vllm-ci.yaml").write_text(
        "version: 1\nimage: {spec: ../images/small.yaml, overlays: [{from: nothing, to: /x}]}"
    )
    call(tmp_path, checkout, "build", codes=(2, 3))


@pytest.mark.slow
def test_verbs_about_releases_leave_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "chat"
    project.make_project(folder)
    project.build_and_test(folder)
    call(tmp_path, folder, "publish", "--dry-run")
    call(tmp_path, folder, "publish")
    project.commit(folder, "again")
    project.build_and_test(folder)
    call(tmp_path, folder, "publish")
    call(tmp_path, folder, "publish", "--channel", "nonsense", codes=(2,))
    call(tmp_path, folder, "promote", "--from", "staging", "--channel", "production")
    call(tmp_path, folder, "rollback", "staging")
    call(tmp_path, folder, "history")
    call(tmp_path, folder, "show", "HEAD", codes=(0, 2))
    call(tmp_path, folder, "verify", "staging")
    call(tmp_path, folder, "doctor", "--ledger", codes=(0, 1, 3))


def until(condition: object, what: str) -> None:
    end = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, what
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_compile_step_that_is_stopped_leaves_no_clone_no_wheel_and_no_process(
    world: World, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for docker has started a child, and compiles for ever."""
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    compiling = f"echo $$ >>{tmp_path}/pids; sh -c 'echo $$ >>{tmp_path}/pids; sleep 600; true'; true"
    docker.write_text(f"#!/bin/sh\ntouch $TMPDIR/half\n{compiling}\n", encoding="utf-8")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}:/usr/bin:/bin")
    world.commit(
        {"vllm/__init__.py": b"__version__ = '1.0'\n", "csrc/kernel.cu": b"//\n", "docker/Dockerfile": b"FROM x AS build\n"}
    )
    world.settings["vllm"] = VllmSource(compile=Compile(program="docker"))
    (tmp_path / "world.pickle").write_bytes(pickle.dumps(world))
    pids = tmp_path / "pids"
    process = subprocess.Popen([sys.executable, "-c", COMPILE, str(tmp_path / "world.pickle")])
    until(lambda: pids.exists() and len(pids.read_text(encoding="utf-8").split()) == 2, "the compile step did not start")
    running = [int(word) for word in pids.read_text(encoding="utf-8").split()]
    assert any(name.startswith("home/tmp/compile-") for name in left(tmp_path))
    process.send_signal(number)
    assert process.wait(60) == (-number if number == signal.SIGKILL else 130)
    until(lambda: not any(map(alive, running)), "the compile step still runs")
    if number == signal.SIGKILL:
        with scratch.folder():  # the next command of any kind that needs a place
            assert [name for name in left(tmp_path) if "compile-" in name] == []
    assert left(tmp_path) == []


@pytest.mark.slow
def test_what_a_killed_builder_left_half_written_goes_with_the_next_build(checkout: Path, tmp_path: Path) -> None:
    call(tmp_path, checkout, "build")
    old, new = (tmp_path / "home" / "images" / "blobs" / "sha256" / f".part-{age}" for age in ("old", "new"))
    tree = tmp_path / "home" / "trees" / ".part-tree"
    tree.mkdir(parents=True)
    for path in (old, new):
        path.write_bytes(b"half")
    for path in (old, tree):
        os.utime(path, (time.time() - 3600, time.time() - 3600))
    subprocess.run([sys.executable, "-c", COMMAND, "build"], cwd=checkout, check=True)
    assert left(tmp_path) == ["home/images/blobs/sha256/.part-new"]
