"""Paths of an image as paths of its tree: a link never leads out of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from vllm_ci.domain.errors import EngineError
from vllm_ci.engines import environment
from vllm_ci.engines.rootfs import inside, prepare, resolve


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree as hostile as one that was not written by us could be: links that lead out are in it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (outside / "python").write_bytes(b"\x7fELF")
    (outside / "ld-linux-x.so.2").write_bytes(b"\x7fELF")
    root = tmp_path / "root"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/lib/x").mkdir(parents=True)
    (root / "usr/lib/x/ld-linux-x.so.2").write_bytes(b"\x7fELF")
    (root / "usr/bin/python3.11").write_bytes(b"\x7fELF")
    (root / "usr/bin/python").symlink_to("/usr/bin/python3.11")
    (root / "bin").symlink_to("usr/bin")
    (root / "esc").symlink_to(outside)
    (root / "up").symlink_to("../../../../../../../../.." + str(outside))
    (root / "slashes").symlink_to("//etc")
    (root / "loop").symlink_to("loop")
    (root / "etc").mkdir()
    (root / "etc/hostname").write_bytes(b"image")
    return root


@pytest.mark.parametrize(
    "path", ["/esc", "/esc/secret", "/up", "/up/secret", "/loop", "/loop/x", "/missing", "/../outside/secret", "/esc/../secret"]
)
def test_a_path_that_leads_nowhere_in_the_image_is_left_alone(root: Path, path: str) -> None:
    assert inside(root, path) == path


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("/usr/bin/python3.11", "usr/bin/python3.11"),
        ("/bin/python", "usr/bin/python3.11"),
        ("/slashes/hostname", "etc/hostname"),
        ("/usr/../etc/hostname", "etc/hostname"),
        ("/../../etc/hostname", "etc/hostname"),
        ("/usr/lib/", "usr/lib"),
    ],
)
def test_a_path_of_the_image_becomes_its_real_place_in_the_tree(root: Path, path: str, there: str) -> None:
    assert inside(root, path) == str(root / there)
    assert resolve(root, root / path.lstrip("/")) == root / there


@pytest.mark.parametrize("text", ["relative", "/", "", "/a\nb", "/" + "n" * 300, "/\0", "--x"])
def test_what_is_no_path_is_left_alone(root: Path, text: str) -> None:
    assert inside(root, text) == text


def test_neither_interpreter_nor_loader_is_one_of_this_machine(root: Path, tmp_path: Path) -> None:
    found = prepare(root, {"config": {"Env": ["PATH=/esc:/up:/bin", "LIB=/usr/lib:/esc"]}}, tmp_path / "launchers")
    assert str(root / "usr/bin/python3.11") in (found.bin / "python").read_text()
    assert found.env["LIB"] == f"{root / 'usr/lib'}:/esc"
    assert found.loader[0] == str(root / "usr/lib/x/ld-linux-x.so.2")
    (root / "usr/lib/x/ld-linux-x.so.2").unlink()
    (root / "usr/lib/x/ld-linux-x.so.2").symlink_to(tmp_path / "outside" / "ld-linux-x.so.2")
    with pytest.raises(EngineError, match="no glibc loader"):
        prepare(root, {"config": {"Env": ["PATH=/bin"]}}, tmp_path / "launchers")


def test_a_path_with_no_interpreter_in_the_image_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="has no python on its PATH"):
        prepare(root, {"config": {"Env": ["PATH=/esc:/up"]}}, tmp_path / "launchers")


def test_the_launchers_of_an_image_keep_their_path_and_are_written_again_where_they_are_damaged(
    root: Path, tmp_path: Path
) -> None:
    """Their path is part of the commands by which torch finds its compiled kernels."""
    config = {"config": {"Env": ["PATH=/bin"]}}
    found = prepare(root, config, tmp_path / "launchers")
    whole = {path: path.read_text() for path in found.bin.parent.rglob("*") if path.is_file()}
    (found.bin / "python").write_text("#!/bin/sh\n")
    (found.bin / "python3").unlink()
    (found.bin / "python3.11").chmod(0o600)
    assert prepare(root, config, tmp_path / "launchers") == found
    assert {path: path.read_text() for path in found.bin.parent.rglob("*") if path.is_file()} == whole
    assert os.access(found.bin / "python3.11", os.X_OK)


def test_each_image_has_launchers_of_its_own(root: Path, tmp_path: Path) -> None:
    config = {"config": {"Env": ["PATH=/bin"]}}
    other = tmp_path / "elsewhere" / root.name
    shutil.copytree(root, other, symlinks=True)
    first, second = (prepare(each, config, tmp_path / "launchers") for each in (root, other))
    assert first.bin != second.bin
    assert str(root) in (first.bin / "python").read_text()
    assert str(other) in (second.bin / "python").read_text()


@pytest.mark.parametrize(
    ("of_the_image", "given", "there"),
    [([], {}, "home/torchinductor"), (["TORCHINDUCTOR_CACHE_DIR=/a"], {}, "/a"), ([], {"TORCHINDUCTOR_CACHE_DIR": "/b"}, "/b")],
)
def test_kernels_that_torch_compiled_for_other_environments_are_not_loaded(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_the_image: list[str], given: dict[str, str], there: str
) -> None:
    """Torch's own folder is one for all programs of a user: vLLM died of kernels that a virtual environment had left there."""
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))
    place = tmp_path / "place"
    place.mkdir()
    found = environment.of_image((root, {"config": {"Env": of_the_image}}), place, given, [], {})
    assert found.env["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / there)
