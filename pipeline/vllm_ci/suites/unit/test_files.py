"""Every file is the one that its locked wheel, its package or its commit has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm_ci.suites.unit.tree import Tree, unknown_files, writable_by_all, wrong_files

_SHOWN = 10


def test_every_file_is_the_one_that_was_locked(
    manifest: dict[str, Any], where: Tree, metric: Callable[[str, object], None]
) -> None:
    """A file that differs from what was locked was changed on the way, by mistake or on purpose."""
    wrong = {owner: found for owner, files in manifest.items() if (found := wrong_files(where, files))}
    metric("files", sum(map(len, manifest.values())))
    shown = [f"{owner}: {each}" for owner, found in wrong.items() for each in found]
    assert not shown, f"{len(shown)} files are not as locked: {'; '.join(shown[:_SHOWN])}"


def test_no_file_came_from_nowhere(manifest: dict[str, Any], where: Tree, packages: str) -> None:
    """What nobody locked, nobody looked at: no module beside those of the wheels and the commit."""
    found = unknown_files(where, manifest, packages)
    assert not found, f"{len(found)} files beside the packages were brought by no wheel: {'; '.join(found[:_SHOWN])}"


def test_nothing_is_writable_by_everybody(where: Tree) -> None:
    """Code that any process may change is anybody's code."""
    found = writable_by_all(where)
    assert not found, f"{len(found)} files can be written by everybody: {'; '.join(found[:_SHOWN])}"


def test_code_is_not_writable_by_its_group(where: Tree, packages: str) -> None:
    """The server runs with the group of its files: it must not be able to rewrite its own code."""
    found = [where.shown(entry.path) for entry in where.files(packages) if entry.is_file() and entry.stat().st_mode & 0o020]
    assert not found, f"{len(found)} files of the packages can be written by their group: {'; '.join(found[:_SHOWN])}"
