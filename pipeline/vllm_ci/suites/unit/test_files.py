"""Every file matches its locked wheel, its Debian package or its commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm_ci.suites.unit.tree import Tree, unknown_files, writable_by_all, wrong_files

_SHOWN = 10


def test_every_file_is_the_one_that_was_locked(
    manifest: dict[str, Any], where: Tree, metric: Callable[[str, object], None]
) -> None:
    """A file that differs from its lock was modified, by mistake or on purpose."""
    wrong = {owner: found for owner, files in manifest.items() if (found := wrong_files(where, files))}
    metric("files", sum(map(len, manifest.values())))
    shown = [f"{owner}: {each}" for owner, found in wrong.items() for each in found]
    assert not shown, f"{len(shown)} files differ from the lock: {'; '.join(shown[:_SHOWN])}"


def test_no_file_came_from_nowhere(manifest: dict[str, Any], where: Tree, packages: str) -> None:
    """There are no modules that are in neither a locked wheel nor the commit."""
    found = unknown_files(where, manifest, packages)
    assert not found, f"{len(found)} files in the packages folder belong to no wheel: {'; '.join(found[:_SHOWN])}"


def test_nothing_is_writable_by_everybody(where: Tree) -> None:
    """Any process could change files that everybody may write."""
    found = writable_by_all(where)
    assert not found, f"{len(found)} files are writable by everybody: {'; '.join(found[:_SHOWN])}"


def test_code_is_not_writable_by_its_group(where: Tree, packages: str) -> None:
    """The server runs with the group of its files, and must not be able to change its own code."""
    found = [where.shown(entry.path) for entry in where.files(packages) if entry.is_file() and entry.stat().st_mode & 0o020]
    assert not found, f"{len(found)} files of the packages are writable by their group: {'; '.join(found[:_SHOWN])}"
