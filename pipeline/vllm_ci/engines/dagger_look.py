"""Read what is only available in the tool's container: the commit of a checkout, its changes, and the builder's store.

A program that runs in that container: ``dagger_look.py CHECKOUT FILE [FOLDER [BASE]]``; with FOLDER it also writes the
differences from the base branch (or commit) BASE in that directory. With only FILE it writes facts about the builder's store
and the machine.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vllm_ci.ci.base import base as base_of
from vllm_ci.domain.changes import Changes
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import VllmCiError
from vllm_ci.system import vcs
from vllm_ci.system.base_branch import changes, of_mapping


@dataclass(frozen=True, kw_only=True)
class Volume:
    """The cache volume with the builder's store.

    Attributes:
        images: Number of images in it.
        bytes: Total size in bytes.
        free_bytes: Free bytes of the engine's disk.
        disk_bytes: Size of that disk in bytes.
    """

    images: int
    bytes: int
    free_bytes: int
    disk_bytes: int


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Facts about a checkout.

    Attributes:
        commit: Commit of the checkout.
        changed: Differences from the base branch; ``None`` if not requested.
        empty: Whether the builder's store has no image.
    """

    commit: Commit
    changed: Changes | None
    empty: bool


def seen(values: Mapping[str, Any]) -> Seen:
    """Create the object from the JSON that the program writes."""
    found = values["changed"]
    return Seen(
        commit=Commit(**values["commit"]), changed=None if found is None else of_mapping(found), empty=values["images"] == 0
    )


def volume(home: Path) -> Volume:
    """Measure the store in ``home`` (``VLLM_CI_HOME``)."""
    files = (Path(folder, name) for folder, _, names in os.walk(home) for name in names)
    size = sum(path.lstat().st_size for path in files if path.exists())
    disk = shutil.disk_usage(home)
    return Volume(images=_images(home), bytes=size, free_bytes=disk.free, disk_bytes=disk.total)


def _images(home: Path) -> int:
    try:
        index = json.loads((home / "images" / "index.json").read_bytes())
    except (OSError, ValueError):
        return 0
    return len(index.get("manifests", ()))


def _changes(checkout: Path, commit: Commit, folder: str, base: str) -> Changes:
    try:
        return changes(checkout, commit, base_of({"VLLM_CI_BASE": base}), folder=folder)
    except VllmCiError as error:
        return Changes(unknown=str(error))


def look(checkout: str, file: str, folder: str = "", base: str = "") -> None:
    """Write facts about a checkout."""
    commit = vcs.discover(Path(checkout))
    changed = asdict(_changes(Path(checkout), commit, folder, base)) if folder else None
    found = {"commit": asdict(commit), "changed": changed, "images": _images(Path(os.environ["VLLM_CI_HOME"]))}
    Path(file).write_text(json.dumps(found), encoding="utf-8")


def measure(file: str) -> None:
    """Write facts about the machine and the builder's store."""
    found = {**asdict(volume(Path(os.environ["VLLM_CI_HOME"]))), "cpu_count": os.cpu_count()}
    Path(file).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    (look if len(sys.argv) > 2 else measure)(*sys.argv[1:])
