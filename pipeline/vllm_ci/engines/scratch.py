"""Working folders that do not outlive their owner, and outputs that do."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vllm_ci.domain.errors import EngineError


@contextmanager
def folder(parent: Path) -> Iterator[Path]:
    """A new folder in ``parent``, gone afterwards; those left behind by owners that were killed go first.

    Raises:
        EngineError: It cannot be made (no space, no permission).
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with (parent / ".sweep").open("w") as one_at_a_time:
            fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
            _sweep(parent)
            made = Path(tempfile.mkdtemp(dir=parent))
            lock = os.open(made / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise EngineError(
            f"cannot make a working folder in {parent}",
            why=str(error),
            remedy="free some space, or name another place with VLLM_CI_HOME",
        ) from error
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(lock)


def _sweep(parent: Path) -> None:
    """Remove folders whose owner is gone: nobody holds their lock."""
    for left in parent.glob("*/.lock"):
        with contextlib.suppress(OSError), left.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left.parent, ignore_errors=True)


def keep(made: Path, place: Path) -> Path:
    """Move the folder ``made`` to ``place`` in one step; when another was first, theirs stands."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        made.rename(place)
    except OSError:
        if not place.is_dir():
            raise
    return place
