"""What a directory holds, told so that two of them can be compared."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path


def told(root: Path) -> dict[str, str]:
    """Path to what is there: ``directory``, ``link`` with where it leads in the image, ``file`` with hash and whether it runs.

    Devices and pipes are left out: not every tool makes them.
    """
    found = {}
    pending = [b""]
    top = os.fsencode(root)
    while pending:
        below = pending.pop()
        for name in os.listdir(os.path.join(top, below)):  # noqa: PTH118, PTH208 - names of any bytes
            path = os.path.join(below, name)  # noqa: PTH118
            status = os.lstat(os.path.join(top, path))  # noqa: PTH118
            shown = os.fsdecode(path)
            if stat.S_ISDIR(status.st_mode):
                pending.append(path)
                found[shown] = "directory"
            elif stat.S_ISLNK(status.st_mode):
                found[shown] = f"link {leads(root, shown)}"
            elif stat.S_ISREG(status.st_mode):
                content = Path(os.fsdecode(os.path.join(top, path))).read_bytes()  # noqa: PTH118
                found[shown] = f"file {hashlib.sha256(content).hexdigest()[:12]} {bool(status.st_mode & 0o111)}"
    return found


def leads(root: Path, path: str) -> str:
    """Where a link leads if ``root`` is the root directory: the place in the tree, or the name where there is nothing."""
    here: list[str] = []
    pending = path.split("/")[::-1]
    links = 0
    while pending:
        part = pending.pop()
        if part == "..":
            here = here[:-1]
        elif part not in {"", "."}:
            place = root.joinpath(*here, part)
            if place.is_symlink() and links < 40:
                links += 1
                target = os.readlink(place)  # noqa: PTH115 - as it is written
                here = [] if target.startswith("/") else here
                pending += target.split("/")[::-1]
            elif links >= 40 and place.is_symlink():
                return "nowhere"
            else:
                here.append(part)
    return "/" + "/".join(here)
