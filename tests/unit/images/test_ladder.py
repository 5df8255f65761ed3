from __future__ import annotations

import contextlib
import dataclasses
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagery.wheels import ELF, write_wheel
from imagery.world import PYTHON, SITE, VLLM, World
from vllm_ci.domain.errors import BuildError, ConfigError
from vllm_ci.domain.image_spec import Compile, VllmSource
from vllm_ci.images.build import BuiltImage
from vllm_ci.images.integrity import manifest
from vllm_ci.images.tree import materialise
from vllm_ci.images.vllm import compiling
from vllm_ci.system.vcs import discover

pytestmark = pytest.mark.slow

TRACKED = {name: content for name, content in VLLM.items() if name.endswith(".py") and "_version" not in name}
SOURCES = {
    **TRACKED,
    "csrc/kernel.cu": b"// kernel 1\n",
    "CMakeLists.txt": b"project(vllm)\n",
    "setup.py": b"setup()\n",
    "requirements/build.txt": b"cmake\n",
    "requirements/common.txt": b"helper>=0.1  # needed\n",
    "requirements/cuda.txt": b"-r common.txt\n",
    "pyproject.toml": b'[build-system]\nrequires = ["setuptools"]\n[tool.ruff]\nline-length = 80\n',
    "README.md": b"vLLM\n",
}


@pytest.fixture
def fork(world: World) -> World:
    """The world's repository is vLLM itself, at its release."""
    world.settings |= {"vllm": VllmSource(), "overlays": ()}
    world.commit({"serving/template.jinja": None, "serving/post.py": None, **SOURCES}, tag="v1.0")
    return world


def step(image: BuiltImage) -> str:
    return next(line for line in image.explain if line.startswith("vllm ("))


def test_the_release_commit_takes_the_release_wheel(fork: World) -> None:
    image = fork.build()
    assert "step 1" in step(image)
    assert "commit" not in [layer.tier for layer in image.layers]


def test_a_python_change_goes_over_the_compiled_files_of_the_release(fork: World) -> None:
    fork.build()
    fork.commit({"vllm/engine.py": b"STEP = 2\n", "vllm/new.py": b"NEW = True\n", "README.md": b"changed\n"})
    image = fork.build()
    assert "step 3" in step(image)
    assert "2 files of the commit over it" in step(image)
    assert [layer.tier for layer in image.layers if layer.built] == ["commit", "metadata"]
    files = fork.files(image)
    assert files[f"{SITE}/vllm/engine.py"] == b"STEP = 2\n"
    assert files[f"{SITE}/vllm/_C.abi3.so"] == ELF
    assert fork.config(image)["config"]["Labels"]["ai.vllm.build.commit"] == discover(fork.repository).sha


def test_the_delta_is_against_the_release_never_against_an_earlier_commit(fork: World) -> None:
    fork.commit({"vllm/engine.py": b"STEP = 2\n"})
    fork.build()
    fork.commit({"vllm/new.py": b"NEW = True\n"})
    names = fork.contents(fork.build(), "commit")
    assert {name for name in names if name.endswith(".py")} == {f"{SITE}/vllm/engine.py", f"{SITE}/vllm/new.py"}


@pytest.mark.parametrize(
    "change",
    [
        {"csrc/kernel.cu": b"// kernel 2\n"},
        {"csrc/other.cu": b"// another\n"},
        {"csrc/kernel.cu": None},
        {"CMakeLists.txt": b"project(other)\n"},
        {"setup.py": b"setup(1)\n"},
        {"requirements/build.txt": b"cmake>4\n"},
        {"rust/lib.rs": b"fn main() {}\n"},
        {"pyproject.toml": b'[build-system]\nrequires = ["setuptools", "torch==3"]\n'},
    ],
    ids=lambda change: next(iter(change)),
)
def test_old_kernels_never_go_under_new_sources(fork: World, change: dict[str, bytes | None]) -> None:
    fork.commit(change)
    with pytest.raises(BuildError, match="no wheel has the compiled files") as caught:
        fork.build()
    assert next(iter(change)) in caught.value.why


def test_a_dirty_tree_with_a_changed_kernel_is_refused_too(fork: World) -> None:
    (fork.repository / "csrc" / "kernel.cu").write_bytes(b"// kernel 2\n")
    with pytest.raises(BuildError, match=r"csrc/kernel.cu"):
        fork.build()


def test_a_dirty_tree_with_python_changes_only_is_built(fork: World) -> None:
    (fork.repository / "vllm" / "engine.py").write_bytes(b"STEP = 3\n")
    (fork.repository / "vllm" / "untracked.py").write_bytes(b"X = 1\n")
    files = fork.files(fork.build())
    assert files[f"{SITE}/vllm/engine.py"] == b"STEP = 3\n"
    assert files[f"{SITE}/vllm/untracked.py"] == b"X = 1\n"


def test_other_changes_in_pyproject_compile_nothing(fork: World) -> None:
    fork.commit({"pyproject.toml": SOURCES["pyproject.toml"].replace(b"80", b"120")})
    assert "step 3" in step(fork.build())


def test_deleted_files_and_their_byte_code_are_taken_away(fork: World) -> None:
    fork.commit({"vllm/engine.py": None})
    image = fork.build()
    names = set(fork.contents(image, "commit"))
    assert f"{SITE}/vllm/.wh.engine.py" in names
    assert f"{SITE}/vllm/__pycache__/.wh.engine.cpython-{PYTHON.replace('.', '')}.pyc" in names
    tree = materialise(image.ref.digest, store=fork.store)
    assert not (tree / SITE / "vllm" / "engine.py").exists()
    assert not list((tree / SITE / "vllm" / "__pycache__").glob("engine*"))
    assert f"/{SITE}/vllm/engine.py" not in manifest(image.ref.digest, store=fork.store)["vllm-small"]


def test_a_folder_that_the_commit_no_longer_has_goes_as_a_whole(fork: World) -> None:
    fork.commit({"vllm/old/__init__.py": None, "vllm/old/thing.py": None})
    image = fork.build()
    names = fork.contents(image, "commit")
    assert f"{SITE}/vllm/.wh.old" in names
    assert not (materialise(image.ref.digest, store=fork.store) / SITE / "vllm" / "old").exists()


def test_a_folder_with_files_that_the_build_generated_stays(fork: World) -> None:
    fork.wheel("vllm-small", "1.0", {**VLLM, "vllm/old/_C.abi3.so": ELF})
    fork.commit({"vllm/old/__init__.py": None, "vllm/old/thing.py": None})
    tree = materialise(fork.build().ref.digest, store=fork.store)
    assert [path.name for path in (tree / SITE / "vllm" / "old").iterdir() if path.is_file()] == ["_C.abi3.so"]


def test_stale_byte_code_never_outlives_a_source_that_does_not_compile(fork: World) -> None:
    fork.commit({"vllm/engine.py": b"def broken(:\n"})
    tree = materialise(fork.build().ref.digest, store=fork.store)
    assert (tree / SITE / "vllm" / "engine.py").read_bytes() == b"def broken(:\n"
    assert not list((tree / SITE / "vllm" / "__pycache__").glob("engine*"))


def test_a_wheel_of_exactly_this_commit_is_taken_when_it_says_so(fork: World, tmp_path: Path) -> None:
    commit = fork.commit({"csrc/kernel.cu": b"// kernel 2\n"})
    fork.settings["vllm"] = VllmSource(wheels=(str(tmp_path / "wheels"),))
    write_wheel(tmp_path / "wheels", "vllm", "1.1", {**VLLM, "vllm/_C.abi3.so": ELF + b"2"})
    with pytest.raises(BuildError, match="no wheel has the compiled files"):
        fork.build()
    write_wheel(tmp_path / "wheels", "vllm", f"1.1+g{commit.sha[:9]}", {**VLLM, "vllm/_C.abi3.so": ELF + b"2"})
    image = fork.build()
    assert "step 2" in step(image)
    assert fork.files(image)[f"{SITE}/vllm/_C.abi3.so"] == ELF + b"2"


def test_a_wheel_of_an_ancestor_with_the_same_compiled_inputs_is_stood_on(fork: World, tmp_path: Path) -> None:
    ancestor = fork.commit({"csrc/kernel.cu": b"// kernel 2\n"})
    fork.settings["vllm"] = VllmSource(wheels=(str(tmp_path / "wheels" / "{sha}"),))
    write_wheel(tmp_path / "wheels" / ancestor.sha, "vllm", "1.1", {**VLLM, "vllm/_C.abi3.so": ELF + b"2"})
    fork.commit({"vllm/engine.py": b"STEP = 2\n"})
    image = fork.build()
    assert f"the wheel of {ancestor.sha[:12]}" in step(image)
    files = fork.files(image)
    assert files[f"{SITE}/vllm/_C.abi3.so"] == ELF + b"2"
    assert files[f"{SITE}/vllm/engine.py"] == b"STEP = 2\n"


def test_what_was_compiled_once_serves_every_commit_with_the_same_inputs(
    fork: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    @contextlib.contextmanager
    def compile_wheel(how: Compile, *, root: Path, sha: str, **_: object) -> Iterator[Path]:  # noqa: ARG001
        calls.append(sha)
        yield write_wheel(tmp_path / "compiled", "vllm", "1.1", {**VLLM, "vllm/_C.abi3.so": ELF + b"3"})

    monkeypatch.setattr(compiling, "compile_wheel", compile_wheel)
    fork.settings["vllm"] = VllmSource(compile=Compile())
    commit = fork.commit({"csrc/kernel.cu": b"// kernel 3\n"})
    assert "step 4" in step(fork.build())
    fork.commit({"vllm/engine.py": b"STEP = 2\n"})
    image = fork.build()
    assert f"the wheel compiled for {commit.sha[:12]}" in step(image)
    assert fork.files(image)[f"{SITE}/vllm/_C.abi3.so"] == ELF + b"3"
    assert calls == [commit.sha]


def test_requirements_that_the_lock_does_not_meet_are_refused(fork: World) -> None:
    fork.settings["vllm"] = VllmSource(requirements=("requirements/cuda.txt",))
    fork.build()
    fork.commit({"requirements/common.txt": b"helper>=0.2\nabsent; sys_platform == 'win32'\n"})
    with pytest.raises(ConfigError, match="needs packages that the lock of spec small does not have") as caught:
        fork.build()
    assert "helper>=0.2 (locked: 0.1)" in caught.value.why
    assert "absent" not in caught.value.why


def test_a_clone_without_the_release_says_how_to_get_it(fork: World, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    fork.commit({"vllm/engine.py": b"STEP = 2\n"})
    subprocess.run(["git", "clone", "--quiet", "--no-tags", str(fork.repository), str(clone)], check=True)
    shutil.rmtree(fork.repository)
    clone.rename(fork.repository)
    with pytest.raises(BuildError, match="git fetch --tags"):
        fork.build()


def test_a_lock_without_vllm_is_a_configuration_error(fork: World) -> None:
    fork.settings["vllm"] = dataclasses.replace(VllmSource(), project="vllm-other")
    with pytest.raises(ConfigError, match="0 wheels that could be vLLM"):
        fork.build()


def test_the_compile_step_builds_the_commits_own_dockerfile_with_its_git_history(
    fork: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for docker leaves the wheel that it was asked for, and what it was given."""
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    wheel = write_wheel(tmp_path / "made", "vllm", "1.2", {**VLLM, "vllm/_C.abi3.so": ELF + b"4"})
    docker.write_text(
        f"""#!/bin/sh
while [ $# -gt 1 ]; do
  case $1 in
    --file) cp "$2" {tmp_path}/Dockerfile;;
    --output) out=${{2#type=local,dest=}};;
    --build-arg) echo "$2" >>{tmp_path}/args;;
  esac
  shift
done
git -C "$1" rev-parse HEAD >{tmp_path}/context
mkdir -p "$out" && cp {wheel} "$out/"
"""
    )
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}:/usr/bin:/bin")
    commit = fork.commit({"csrc/kernel.cu": b"// kernel 4\n", "docker/Dockerfile": b"FROM base AS build\n"})
    fork.settings["vllm"] = VllmSource(compile=Compile(arguments={"max_jobs": "2"}, program="docker"))
    image = fork.build()
    assert "step 4" in step(image)
    assert fork.files(image)[f"{SITE}/vllm/_C.abi3.so"] == ELF + b"4"
    assert (tmp_path / "context").read_text().strip() == commit.sha
    assert (tmp_path / "args").read_text().strip() == "max_jobs=2"
    assert "COPY --from=build /workspace/dist/ /" in (tmp_path / "Dockerfile").read_text()
