"""Working folders that do not outlive their owner, and outputs that do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vllm_ci.domain.errors import EngineError, ErroredError
from vllm_ci.system import scratch


@contextmanager
def folder(parent: Path) -> Iterator[Path]:
    """A new folder in ``parent``, gone afterwards; those left behind by owners that were killed go first.

    Raises:
        EngineError: It cannot be made (no space, no permission).
    """
    with ExitStack() as held:
        try:
            made = held.enter_context(scratch.folder(parent=parent))
        except ErroredError as error:
            raise EngineError(error.message, why=error.why, remedy=error.remedy) from error
        yield made


def keep(made: Path, place: Path) -> Path:
    """Move the folder ``made`` to ``place`` in one step; when another was first, theirs stands."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        made.rename(place)
    except OSError:
        if not place.is_dir():
            raise
    return place
