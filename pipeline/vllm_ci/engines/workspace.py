"""Temporary working directories, and outputs that are kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vllm_ci.domain.errors import EngineError, ErroredError
from vllm_ci.system import scratch


@contextmanager
def folder(parent: Path) -> Iterator[Path]:
    """A new directory in ``parent``, deleted afterwards; directories of processes that were killed are deleted first.

    Raises:
        EngineError: It cannot be created (no space, no permission).
    """
    with ExitStack() as held:
        try:
            made = held.enter_context(scratch.folder(parent=parent))
        except ErroredError as error:
            raise EngineError(error.message, why=error.why, remedy=error.remedy) from error
        yield made


def keep(made: Path, place: Path) -> Path:
    """Move the directory ``made`` to ``place`` atomically; if ``place`` exists already, it is kept."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        made.rename(place)
    except OSError:
        if not place.is_dir():
            raise
    return place
