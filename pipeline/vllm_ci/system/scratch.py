"""Directories that do not outlive their owner: gone with the context, and with the next owner when this one was killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vllm_ci.domain.errors import ErroredError
from vllm_ci.system.filelock import LockedError, hold
from vllm_ci.system.home import home

_LOCK = ".lock"


@contextmanager
def folder(prefix: str = "", *, parent: Path | None = None) -> Iterator[Path]:
    """A new directory in ``parent`` (by default ``tmp`` in ``VLLM_CI_HOME``), deleted afterwards.

    Those of owners that were killed are deleted first. Do not use ``parent`` for anything else.

    Raises:
        ErroredError: It cannot be made (no space, no permission).
    """
    with ExitStack() as held:
        place = parent or home() / "tmp"
        try:
            place = parent or _default()
            # Nobody else makes or sweeps now: a directory without a lock, or with a free one, has no owner.
            with hold(place / ".sweep"):
                _sweep(place)
                made = Path(tempfile.mkdtemp(dir=place, prefix=prefix))
                held.callback(_remove, made)
                held.enter_context(hold(made / _LOCK))
        except OSError as error:
            raise ErroredError(
                f"cannot make a directory in {place}",
                why=str(error),
                remedy="free some space, or name another place with VLLM_CI_HOME",
            ) from error
        yield made


def _default() -> Path:
    """``tmp`` in ``VLLM_CI_HOME``; commands that keep nothing work where that cannot be written, too."""
    place = home() / "tmp"
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        place = Path(tempfile.gettempdir(), f"vllm-ci-{os.geteuid()}")
        place.mkdir(mode=0o700, exist_ok=True)
        if place.is_symlink() or place.stat().st_uid != os.geteuid():
            raise
    return place


def _sweep(place: Path) -> None:
    for left in place.iterdir():
        if left.is_dir() and not left.is_symlink():
            with contextlib.suppress(LockedError, OSError), hold(left / _LOCK, timeout_s=0):
                _remove(left)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():  # directories that deny writing keep their files
        path.chmod(0o700)
        for place, names, _ in os.walk(path):
            for name in names:
                if not Path(place, name).is_symlink():
                    Path(place, name).chmod(0o700)
        shutil.rmtree(path, ignore_errors=True)
