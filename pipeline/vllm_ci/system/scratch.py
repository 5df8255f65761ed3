"""Temporary directories, deleted at the end of the context; the next use deletes those of processes that were killed."""

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

    Directories of processes that were killed are deleted first. Do not use ``parent`` for anything else.

    Raises:
        ErroredError: It cannot be created (no space, no permission).
    """
    with ExitStack() as held:
        place = parent or home() / "tmp"
        try:
            place = parent or _default()
            # No other process creates or deletes here now, so a directory whose lock is missing or free has no owner.
            with hold(place / ".sweep"):
                _sweep(place)
                made = Path(tempfile.mkdtemp(dir=place, prefix=prefix))
                held.callback(_remove, made)
                held.enter_context(hold(made / _LOCK))
        except OSError as error:
            raise ErroredError(
                f"cannot create a directory in {place}",
                why=str(error),
                remedy="free some space, or set VLLM_CI_HOME to another directory",
            ) from error
        yield made


def _default() -> Path:
    """``tmp`` in ``VLLM_CI_HOME``, or a directory in the system's temporary directory if that is not writable."""
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
    if path.exists():  # files in directories without write permission are still there
        path.chmod(0o700)
        for place, names, _ in os.walk(path):
            for name in names:
                if not Path(place, name).is_symlink():
                    Path(place, name).chmod(0o700)
        shutil.rmtree(path, ignore_errors=True)
