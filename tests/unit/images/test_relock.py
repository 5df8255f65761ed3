from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from imagery import relock
from imagery.world import World
from vllm_ci.images import resolver
from vllm_ci.images.lockfile import read_debs, write_debs
from vllm_ci.images.spec_file import folders, load

pytestmark = pytest.mark.slow


def test_a_shipped_lock_that_mirrors_have_outgrown_is_locked_anew_in_a_copy(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The world's mirror has nothing of the shipped lock."""
    shipped = next(folder for folder in folders() if (folder / "cpu.yaml").is_file())
    before = {path.name: path.read_bytes() for path in shipped.iterdir()}

    def resolved(spec: object) -> tuple[object, ...]:  # noqa: ARG001
        return tuple(dataclasses.replace(deb, version="9") for deb in world.debs)

    monkeypatch.setattr(resolver, "resolve_debs", resolved)
    with pytest.warns(relock.Relocked, match="locked anew in a copy for this test"):
        path = relock.usable("cpu", tmp_path / "copy")
    assert {deb.version for deb in read_debs(load(path).debs_lock)} == {"9"}
    assert {path.name: path.read_bytes() for path in shipped.iterdir()} == before


def test_a_shipped_lock_that_can_be_fetched_is_used_as_it_is(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.spec()
    folder = tmp_path / "specs"
    folder.mkdir()
    for path in next(each for each in folders() if (each / "cpu.yaml").is_file()).iterdir():
        shutil.copy(path, folder / path.name)
    write_debs(folder / "cpu.debs.lock", world.debs, spec="cpu")
    monkeypatch.setattr("vllm_ci.images.spec_file.folders", lambda: (folder,))
    assert relock.usable("cpu", tmp_path / "copy") == folder / "cpu.yaml"
